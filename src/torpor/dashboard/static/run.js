// The Run page's small things: dialogs, and folds that stay open when what is around them is fresh.
"use strict";

(() => {
  const open = new Set();

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { open: wanted, checkpoint } = button.dataset;
    if (wanted) {
      const dialog = document.getElementById(wanted);
      if (!dialog) return; // it comes with the next refresh
      const choice = dialog.querySelector("[data-checkpoints]");
      if (choice && checkpoint) choice.value = checkpoint;
      if (choice) fit(choice);
      dialog.querySelector(".said-here").replaceChildren();
      dialog.showModal();
    } else if ("close" in button.dataset) button.closest("dialog").close();
  });

  /** Only the waits of the checkpoint that is chosen can be answered there; a question with yes or no, any other with JSON. */
  const fit = (choice) => {
    const waits = choice.form.elements.wait;
    for (const each of waits.options) each.hidden = each.disabled = Boolean(each.dataset.of) && each.dataset.of !== choice.value;
    const fitting = [...waits.options].filter((each) => each.dataset.of === choice.value);
    waits.value = fitting.length > 1 ? fitting[0].value : "";
    waits.closest("label").hidden = fitting.length < 2;
    ask(choice.form, fitting.length === 1 ? fitting[0] : waits.selectedOptions[0]);
  };
  const ask = (form, wait) => {
    const isQuestion = wait?.dataset.asks !== undefined;
    form.querySelector("[data-for-question]").hidden = form.elements.decision.disabled = !isQuestion;
    form.querySelector("[data-for-value]").hidden = form.elements.answer.disabled = isQuestion;
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-checkpoints]")) fit(event.target);
    if (event.target.matches("#fork [name=wait]")) ask(event.target.form, event.target.selectedOptions[0]);
  });

  // A comment that somebody has begun to write stays, whatever changes around it.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.id !== "top") return;
    if ([...document.querySelectorAll(".answer input:not([type=hidden])")].some((field) => field.value)) event.detail.shouldSwap = false;
  });

  document.addEventListener("toggle", (event) => {
    if (event.target.id.startsWith("fold-")) open[event.target.open ? "add" : "delete"](event.target.id);
  }, true);
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of [...open]) {
      const fold = document.getElementById(id);
      if (fold) fold.open = true;
    }
  });
})();
