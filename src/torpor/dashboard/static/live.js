// Keeps an open page fresh: the server says that something has changed, and each part asks for itself again.
// A hidden page listens to nothing: a browser has few connections for one server, and they are for pages that are looked at.
// A part with data-of asks only when something of that kind has changed, any other at each change.
"use strict";

(() => {
  const { hands, Place } = globalThis.torpor;
  const url = document.body.dataset.live;
  const sign = document.querySelector("[data-live-sign]");
  let source = null;

  // A part asks at most once in the seconds that its data-refresh says, less often where answers take long (a fifth of the
  // time at most is spent on it), and never while it, or a filter of it, is being
  // fetched: an older answer must not overwrite a newer one. What changes meanwhile is asked for afterwards, so that the
  // last change is always seen.
  const states = new Map();

  const stateOf = (id) => {
    if (!states.has(id)) states.set(id, { isBusy: false, isWanted: false, wantedAt: 0, askedAt: -Infinity, begunAt: 0, took: 0, timer: 0 });
    return states.get(id);
  };

  const ask = (part) => {
    const state = stateOf(part.id);
    if (!state.isWanted) state.wantedAt = performance.now();
    state.isWanted = true;
    if (state.isBusy || state.timer) return;
    const pause = Math.max(1000 * Number(part.dataset.refresh), 5 * state.took);
    later(part.id, state, state.askedAt + pause - performance.now());
  };

  const later = (id, state, pause) => {
    state.timer = setTimeout(() => {
      state.timer = 0;
      const part = document.getElementById(id);
      if (state.isBusy || !part || leaving) return;
      if (hands.isHeld(part, state.wantedAt)) return later(id, state, 200);
      state.isWanted = false;
      state.askedAt = performance.now();
      htmx.trigger(part, "live");
    }, Math.max(0, pause));
  };

  // A page that is being left asks for nothing any more, and goes nowhere else: a part that asks while its reader signs out would be
  // sent to the door, and take the page along. It may stay after all: its reader stops the browser or does something else here, or
  // what comes is a file.
  let leaving = 0;

  const leave = () => {
    clearTimeout(leaving);
    leaving = setTimeout(stay, 60_000);
  };
  const stay = () => {
    if (!leaving) return;
    clearTimeout(leaving);
    leaving = 0;
    refresh();
  };
  window.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method === "dialog") stay();
    else leave();
  });
  window.addEventListener("beforeunload", leave);
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    if (leaving && event.detail.xhr.getResponseHeader("HX-Redirect")) event.preventDefault();
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    const state = stateOf(part.id);
    if (event.detail.requestConfig.triggeringEvent?.type !== "live") return;
    if (hands.isHeld(part, state.wantedAt)) {
      event.detail.shouldSwap = false;
      state.isWanted = true;
      state.wantedAt = performance.now();
      return;
    }
    const text = hands.inPlace(part, event.detail.serverResponse);
    if (text === null) event.detail.shouldSwap = false;
    else {
      event.detail.serverResponse = text;
      hands.keepPlace(part);
    }
  });
  hands.onFree(ask);
  document.addEventListener("htmx:beforeRequest", (event) => {
    const state = stateOf(event.detail.target.id);
    state.isBusy = true;
    state.begunAt = performance.now();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const state = stateOf(event.detail.target.id);
    state.isBusy = false;
    state.took = performance.now() - state.begunAt;
    const part = document.getElementById(event.detail.target.id);
    if ((state.isWanted || part?.matches("[data-more]")) && part?.matches("[data-refresh]")) ask(part);
  });
  window.addEventListener("pageshow", () => {
    for (const state of states.values()) state.isBusy = false;
    stay();
  });

  const refresh = (kinds) => {
    for (const part of document.querySelectorAll("[data-refresh]")) {
      if (!kinds || !part.dataset.of || kinds.includes(part.dataset.of)) ask(part);
    }
  };

  // Few windows have a stream (places.js); one that finds no place looks every few seconds by itself.
  let isLooking = false;
  let place = null;

  const stop = () => {
    source?.close();
    source = null;
    place?.leave();
    place = null;
  };

  const listen = async () => {
    if (source || isLooking || leaving || document.hidden) return;
    isLooking = true;
    place = await Place.take(stop);
    isLooking = false;
    if (!place) return;
    if (document.hidden) return stop();
    source = new EventSource(url);
    source.addEventListener("changed", (event) => refresh(event.data.split(" ")));
    source.addEventListener("open", () => {
      sign?.classList.add("is-on");
      isBack();
      refresh(); // what has changed since the page was made was told to nobody
      setTimeout(() => refresh(), 6_000); // and the server remembers counts for some seconds
    });
    source.addEventListener("error", () => {
      sign?.classList.remove("is-on");
      if (source.readyState === EventSource.CONNECTING) isAway(2000);
      else stop(); // signed out, or the server is another one: try later
    });
  };

  if (url) {
    listen();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) stop();
      else listen();
    });
    window.addEventListener("pagehide", stop);
    setInterval(async () => {
      if (document.hidden || source) return;
      await listen();
      if (!source) refresh();
    }, 3_000);
    document.addEventListener("kin", () => ask(document.getElementById("facts"))); // runs below this one have gone on (model.js)
    window.addEventListener("focus", () => refresh()); // somebody comes back from the editor, or the terminal
    // An announcement can be lost, and waits that nobody is tied to announce nothing.
    setInterval(() => {
      if (!document.hidden) refresh();
    }, 30_000);
  }

  // -- times that go on ---------------------------------------------------------------------------------------------

  const units = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

  const ago = (seconds) => {
    const length = Math.abs(seconds);
    const [unit, name] = units.find(([unit]) => length >= unit) ?? [1, "s"];
    if (length < 1) return "now";
    const told = `${Math.floor(length / unit)} ${name}`;
    return seconds > 0 ? `${told} ago` : `in ${told}`;
  };

  const span = (seconds) => {
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const index = units.findIndex(([unit]) => seconds >= unit);
    const [[unit, name], [below, belowName]] = [units[index], units[index + 1]];
    return `${Math.floor(seconds / unit)} ${name} ${Math.floor((seconds % unit) / below)} ${belowName}`;
  };

  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

  const tick = () => {
    if (document.hidden) return;
    const now = Date.now();
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const at = Date.parse(time.dateTime);
      const told = ago((now - at) / 1000);
      if (time.textContent !== told) time.textContent = told;
      time.title = exact.format(at);
    }
    for (const figure of document.querySelectorAll("[data-since]")) {
      figure.textContent = span(Math.max(0, (now - Date.parse(figure.dataset.since)) / 1000));
    }
  };
  setInterval(tick, 1000);
  document.addEventListener("htmx:afterSwap", tick);
  tick();

  // -- ticked rows: they stay ticked when the table is fresh ----------------------------------------------------------

  const ticked = new Set();

  const showTicked = () => {
    const boxes = [...document.querySelectorAll("[data-bulk] input[name=run]")];
    for (const box of boxes) box.checked = ticked.has(box.value);
    const here = boxes.filter((box) => box.checked).length;
    const bar = document.querySelector("[data-bulk-bar]");
    if (!bar) return;
    bar.hidden = here === 0;
    bar.querySelector("[data-count]").textContent = here;
    const all = document.querySelector("[data-tick-all]");
    all.checked = here > 0 && here === boxes.length;
    all.indeterminate = here > 0 && here < boxes.length;
  };

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("[data-tick-all]")) {
      for (const each of document.querySelectorAll("[data-bulk] input[name=run]")) ticked[box.checked ? "add" : "delete"](each.value);
      showTicked();
    } else if (box.matches("[data-bulk] input[name=run]")) {
      ticked[box.checked ? "add" : "delete"](box.value);
      showTicked();
    }
  });
  // At once: what is sent in the moment before all has settled is to have its ticks, too.
  document.addEventListener("htmx:afterSwap", showTicked);
  document.addEventListener("htmx:afterSettle", showTicked);
  window.addEventListener("pageshow", showTicked);

  // -- forms --------------------------------------------------------------------------------------------------------

  // Ask before what can't be taken back.
  let sure = null;
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button?.dataset.ask || button === sure) {
      sure = null;
      return;
    }
    event.preventDefault();
    const dialog = document.getElementById("sure");
    const form = event.target;
    const count = form.querySelector("[data-count]")?.textContent;
    const what = form.querySelector("[data-all]")?.checked ? "all runs that fit the filters" : count === "1" ? "1 run" : `${count} runs`;
    dialog.querySelector("#sure-question").textContent = count === undefined ? button.dataset.ask : `${button.dataset.ask} ${what}?`;
    dialog.querySelector("[data-yes]").textContent = button.textContent.trim();
    dialog.onclose = () => {
      if (dialog.returnValue !== "yes") return;
      sure = button;
      form.requestSubmit(button);
    };
    dialog.returnValue = "no";
    dialog.showModal();
  });

  // An address says only what is asked for.
  document.addEventListener("htmx:configRequest", (event) => {
    if (!event.target.matches?.("[data-tidy]")) return;
    const environment = new URLSearchParams(location.search).get("environment");
    if (environment) event.detail.formData.set("environment", environment);
    for (const name of [...new Set(event.detail.formData.keys())]) {
      const values = event.detail.formData.getAll(name).filter((value) => value !== "");
      event.detail.formData.delete(name);
      for (const value of values) event.detail.formData.append(name, value);
    }
  });

  // Signed out meanwhile, or the server is restarting: say so instead of leaving a page that looks fresh.
  document.addEventListener("htmx:responseError", (event) => say(`The server answered ${event.detail.xhr.status}`));
  document.addEventListener("htmx:sendError", () => isAway(0));
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) isBack(); });

  const said = document.getElementById("said");
  let quiet = 0;
  const hush = () => said.classList.remove("is-on");
  const say = (text, stays = false) => {
    said.textContent = text;
    said.classList.add("is-on");
    clearTimeout(quiet);
    if (!stays) quiet = setTimeout(hush, 4000);
  };

  // A server that is started again is back within a second or two: that is not worth a word.
  let away = 0;
  const isAway = (pause) => {
    away ||= setTimeout(() => say(url ? "The server is away. This page goes on by itself when it is back." : "The server can't be reached", true), pause);
  };
  const isBack = () => {
    if (!away) return;
    clearTimeout(away);
    away = 0;
    hush();
  };

  // -- copying --------------------------------------------------------------------------------------------------------

  // Where the browser has no clipboard (a page that came over plain HTTP from elsewhere), a field that is selected is copied.
  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "visually-hidden";
    document.body.append(field);
    field.select();
    const isDone = document.execCommand("copy");
    field.remove();
    if (!isDone) throw new Error("the browser doesn't let this page copy");
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button[data-copy]");
    if (!button) return;
    try {
      await copy(button.dataset.copy);
    } catch {
      return say("The browser doesn't let this page copy: select the text");
    }
    button.textContent = "copied";
    say("Copied");
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });

  // -- light and dark ---------------------------------------------------------------------------------------------

  document.querySelector("[data-theme-switch]")?.addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    document.cookie = `torpor_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
  });

  // Menus close when one looks elsewhere.
  for (const looks of ["click", "focusin"]) {
    document.addEventListener(looks, (event) => {
      for (const open of document.querySelectorAll("details.pick[open]")) if (!open.contains(event.target)) open.open = false;
    });
  }
})();
