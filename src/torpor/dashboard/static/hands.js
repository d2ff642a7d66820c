// What somebody is at stays where it is, while the page is kept fresh around it: the row under the mouse, the one that the keyboard
// is in, what is written, held down, marked or opened.
"use strict";

(() => {
  let mouse = null; // where it is, as long as it is in the window
  let movedAt = -Infinity;
  let isPressed = false;

  // Nothing is drawn anew while a question is asked, a menu is open, text of it is marked or a button is held down; and while the
  // mouse is on its way in it, not for some seconds: what it aims at is not to move.
  const isHeld = (part, wantedAt) => {
    const marked = document.getSelection();
    const now = performance.now();
    return isPressed || document.querySelector("dialog[open]") || part.querySelector("details.pick[open]")
      || (!marked.isCollapsed && part.contains(marked.anchorNode))
      || (now - movedAt < 400 && now - wantedAt < 3000);
  };

  document.addEventListener("pointerdown", () => { isPressed = true; }, true);
  for (const end of ["pointerup", "pointercancel", "dragend"]) document.addEventListener(end, () => { isPressed = false; }, true);
  window.addEventListener("blur", () => { isPressed = false; });
  document.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    mouse = [event.clientX, event.clientY];
    if (event.target.closest?.("[data-refresh]")) movedAt = performance.now();
    free();
  });
  document.documentElement.addEventListener("pointerleave", () => {
    mouse = null;
    free();
  });
  document.addEventListener("focusin", () => free());
  document.addEventListener("focusout", () => setTimeout(free));

  /** What of this kind the mouse rests on within the part. */
  const pointed = (part, kind) => {
    const found = mouse && document.elementFromPoint(...mouse)?.closest(kind);
    return found && part.contains(found) ? found : null;
  };
  const focused = (part) => {
    const row = document.activeElement.matches(":focus-visible") ? document.activeElement.closest("[data-row]") : null;
    return row && part.contains(row) ? row : null;
  };

  // -- rows that wait until they are in nobody's way ------------------------------------------------------------------

  const sign = document.querySelector("[data-held]");
  const held = new Map(); // by a part's id: how many rows are new
  let letGo = () => {};

  const tell = () => {
    if (!sign) return;
    const many = [...held.values()].reduce((sum, each) => sum + each, 0);
    sign.hidden = !held.size;
    sign.textContent = many ? `${many} new ${many === 1 ? "row" : "rows"}: show` : "This has changed: show";
  };

  const isAtSign = () => mouse && document.elementFromPoint(...mouse) === sign; // it is there until it is pressed, or left

  const free = () => {
    if (isAtSign()) return;
    for (const id of held.keys()) {
      const part = document.getElementById(id);
      if (part && (pointed(part, "[data-row]") || focused(part))) continue;
      held.delete(id);
      tell();
      if (part) letGo(part);
    }
  };

  sign?.addEventListener("click", () => {
    document.getElementById("content").focus({ preventScroll: true }); // from where j goes to the first row
    mouse = null;
    free();
  });

  const lists = (root) => [...new Set([...root.querySelectorAll("[data-row]")].map((row) => row.parentNode))];
  const ids = (list) => [...list.children].map((row) => row.id);

  /** The part as it is now, as text, with the same rows in the same places where somebody is at one of them; null: no such thing. */
  const inPlace = (part, text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById(part.id);
    const [before, after] = [lists(part), fresh ? lists(fresh) : []];
    const [was, is] = [before.map(ids), after.map(ids)];
    const row = pointed(part, "[data-row]") ?? focused(part);
    const isInTheWay = row && JSON.stringify(was) !== JSON.stringify(is) && (row !== focused(part) || pointed(part, "[data-row]") || !is.flat().includes(row.id));
    if (!isInTheWay && !(held.has(part.id) && isAtSign())) {
      if (held.delete(part.id)) tell();
      return text;
    }
    held.set(part.id, is.flat().filter((id) => !was.flat().includes(id)).length);
    tell();
    if (!fresh || before.length !== after.length) return null;
    after.forEach((list, nth) => {
      const news = new Map([...list.children].map((each) => [each.id, each]));
      list.replaceChildren(...[...before[nth].children].map((each) => news.get(each.id) ?? each.cloneNode(true)));
    });
    return new XMLSerializer().serializeToString(fresh);
  };

  // Who points at a button, or has scrolled down, finds it where it was, whatever comes above.
  const keepPlace = (part) => {
    const kept = pointed(part, "a[href], button, summary, label, input") ?? (scrollY > 0 && [...part.querySelectorAll("[data-row][id]")].find((each) => each.getBoundingClientRect().bottom > 0));
    if (!kept) return;
    const was = kept.getBoundingClientRect().top;
    part.addEventListener("htmx:afterSwap", () => {
      const now = kept.isConnected ? kept : kept.id && document.getElementById(kept.id);
      if (now) scrollBy(0, now.getBoundingClientRect().top - was);
    }, { once: true });
  };

  // -- fields ---------------------------------------------------------------------------------------------------------

  // The cursor is set there once: a field that is written in is not drawn anew, and would draw the cursor again.
  document.addEventListener("focusin", (event) => event.target.removeAttribute("autofocus"));

  // What somebody is writing, or has opened, is not to be taken from under their hands.
  const isChanged = (field) => field.matches("select") ? [...field.options].some((each) => each.selected !== each.defaultSelected) : field.value !== field.defaultValue;
  const isWritten = (node) => node.matches?.("textarea, select, input:not([type=checkbox], [type=hidden])") && (node === document.activeElement || isChanged(node));
  const isOfTicks = (node) => node.matches?.("[data-bulk-bar], [data-tick-all]"); // live.js says what they show
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (node) => !isWritten(node) && !isOfTicks(node);
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => !(name === "open" && node.matches("details"));

  const onFree = (act) => { letGo = act; };
  globalThis.torpor = { ...globalThis.torpor, hands: { isHeld, inPlace, keepPlace, onFree } };
})();
