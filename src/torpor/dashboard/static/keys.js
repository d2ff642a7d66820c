// The keyboard: `g` and a letter for pages, `/` to search, `j` and `k` along rows, `x` to tick, `b` past them to what can be done with
// them, `[` and `]` through the pages of a list, `?` for help.
"use strict";

(() => {
  let isGoing = false;

  const isWriting = (target) => target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
  const STOPS = "a[href], summary, button:not(:disabled), input:not([type=checkbox])";
  const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.querySelector(STOPS));
  const help = document.getElementById("help");

  const move = (step) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement.closest("[data-row]"));
    const to = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step));
    all[to].querySelector(STOPS).focus();
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
      b: () => (document.querySelector("[data-bulk-bar]:not([hidden]) button") ?? document.querySelector(".pager a"))?.focus(),
      "[": () => document.querySelector(".pager [rel=prev]")?.click(),
      "]": () => document.querySelector(".pager [rel=next]")?.click(),
      x: () => document.activeElement.closest("[data-row]")?.querySelector("input[type=checkbox]")?.click(),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  document.querySelector("[data-help]")?.addEventListener("click", () => help.showModal());

  // -- where the focus is after a form has brought the page anew: where it was, or in the row that is there now ------------

  const KEPT = "torpor-focus";

  const stopsOf = (within) => [...(within?.querySelectorAll(STOPS) ?? [])].filter((each) => each.checkVisibility());
  const placeOf = (stop) => {
    const row = stop.closest("[data-row]");
    const within = row ?? stop.form ?? document.body;
    return { row: row?.id, nth: row ? rows().indexOf(row) : -1, form: stop.form?.getAttribute("action"), stop: stopsOf(within).indexOf(stop) };
  };
  const stopAt = ({ row, nth, form, stop }) => {
    const within = row !== undefined ? document.getElementById(row) ?? rows()[Math.min(nth, rows().length - 1)] : [...document.forms].find((each) => each.getAttribute("action") === form);
    const stops = stopsOf(within);
    return stops[document.getElementById(row) || row === undefined ? stop : 0] ?? stops[0];
  };

  document.addEventListener("submit", (event) => {
    const stop = event.submitter ?? document.activeElement;
    if (event.defaultPrevented || event.target.method === "dialog" || !stop?.matches(":focus-visible, dialog *")) return;
    sessionStorage.setItem(KEPT, JSON.stringify({ page: location.pathname, ...placeOf(stop) }));
  });
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  sessionStorage.removeItem(KEPT);
  window.addEventListener("load", () => { // by then the browser has gone to the row that the address names, and left the focus
    if (kept?.page === location.pathname && !document.querySelector("[autofocus]:not(dialog *)")) stopAt(kept)?.focus({ preventScroll: true });
  });
})();
