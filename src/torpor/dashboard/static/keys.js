// The keyboard: `g` and a letter for pages, `/` to search, `j` and `k` along rows, `x` to tick, `?` for help.
"use strict";

(() => {
  let isGoing = false;

  const isWriting = (target) => target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
  const rows = () => [...document.querySelectorAll("[data-row]")];
  const help = document.getElementById("help");

  const move = (step) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement.closest("[data-row]"));
    const to = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step));
    all[to].querySelector("a[href], button").focus();
    all[to].scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      for (const open of document.querySelectorAll("details.pick[open]")) {
        open.open = false;
        open.querySelector("summary").focus();
        return;
      }
      if (event.target.type === "search") event.preventDefault(); // a browser would empty it
      if (isWriting(event.target)) event.target.blur();
      return;
    }
    if (isWriting(event.target) || document.querySelector("dialog[open]")) return;
    if (isGoing) {
      isGoing = false;
      const link = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
      if (link) {
        event.preventDefault();
        link.click();
      }
      return;
    }
    const act = {
      g: () => { isGoing = true; setTimeout(() => { isGoing = false; }, 1500); },
      "/": () => { const field = document.querySelector("[data-search]"); field?.focus(); field?.select(); },
      "?": () => help?.showModal(),
      j: () => move(1),
      k: () => move(-1),
      x: () => document.activeElement.closest("[data-row]")?.querySelector("input[type=checkbox]")?.click(),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  document.querySelector("[data-help]")?.addEventListener("click", () => help.showModal());
})();
