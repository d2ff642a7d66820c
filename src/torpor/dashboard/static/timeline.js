// A run's timeline: rows of bars over time, and what people do with it.
//
// model.js has what the server tells, scale.js says where an instant lies, drawing.js draws. The list of the story below says the same
// in words, so the drawing is one stop of the Tab key, with arrow keys inside.
"use strict";

(() => {
  const { span, after, first, stretches, Model, Drawing, svg, AXIS } = globalThis.torpor;

  class Timeline extends Drawing {
    constructor(host) {
      super();
      this.host = host;
      this.stage = host.querySelector("[data-stage]");
      this.told = host.querySelector("[data-told]");
      this.canvas = svg("svg", { class: "tl", "aria-hidden": "true" });
      this.room = document.createElement("div");
      this.stage.append(this.canvas, this.room);
      this.view = [0, 1];
      this.folded = new Set();
      this.current = null; // the entry that the keys are at
      this.telling = null; // the entry whose words are shown
      this.entriesOf = new Map();
      this.model = new Model(host.dataset.timeline, () => this.take());
      this.listen();
      this.model.load();
    }

    take() {
      const isFirst = this.rows === undefined;
      this.rows = this.model.rows();
      if (isFirst && this.model.kin.size > 40) for (const row of this.rows) if (row.children && row.kind === "kin") this.folded.add(row.id);
      const bars = this.rows.flatMap((row) => row.bars);
      const instants = this.rows.flatMap((row) => (row.kind === "log" ? row.marks.map((line) => line[1]) : row.marks.map((mark) => mark[1])));
      this.time = stretches(bars, instants, this.model.now);
      this.entriesOf.clear();
      this.draw();
      this.tellAgain();
      this.tellParts();
      this.host.dataset.ready = "";
      this.tick();
    }

    get now() {
      return this.model.now;
    }

    /** As long as something goes on, its edge moves. */
    tick() {
      clearTimeout(this.timer);
      if (!this.model.isOpen || document.hidden) return;
      this.timer = setTimeout(() => {
        this.draw();
        this.tellAgain();
        this.model.refreshKin();
        this.tick();
      }, 500);
    }

    /** What of a long story is not here, and the way to it. */
    tellParts() {
      const box = this.host.querySelector("[data-parts]");
      let isAny = false;
      for (const line of box.querySelectorAll("[data-part]")) {
        const part = this.model[line.dataset.part];
        const told = this.model.leftOut(line.dataset.part);
        line.hidden = !told;
        isAny ||= Boolean(told);
        line.querySelector("[data-left]").textContent = told;
        for (const button of line.querySelectorAll("button")) button.disabled = !(button.dataset.go === "before" ? part?.before : part?.after);
      }
      box.hidden = !isAny;
    }

    shown() {
      const hidden = new Set();
      return this.rows.filter((row) => {
        if (row.parent !== null && (hidden.has(row.parent) || this.folded.has(row.parent))) {
          hidden.add(row.id);
          return false;
        }
        return true;
      });
    }

    /** What the keys go through in a row, by time: [at, tone, words, until]. */
    entries(row) {
      if (!this.entriesOf.has(row.id)) {
        const bars = row.bars.map(([kind, from, to, , told]) => ({ from, to, kind, told }));
        const marks = row.marks.map((mark) => (row.kind === "log" ? { from: mark[1], kind: mark[2], told: mark[3], mark: true } : { from: mark[1], kind: mark[0], told: mark[2], mark: true }));
        this.entriesOf.set(row.id, [...bars, ...marks].sort((one, other) => one.from - other.from));
      }
      return this.entriesOf.get(row.id);
    }

    say(row, entry) {
      const begin = this.scale.begin;
      const who = row.kind === "kin" ? `${row.label}: ` : row.kind === "log" && !entry.many ? `${entry.kind}: ` : "";
      const length = entry.mark ? "" : ` · ${span((entry.to ?? this.now) - entry.from)}${entry.to === null ? " so far" : ""}`;
      return `${who}${entry.told}${length} · at ${after(entry.from - begin, 1)}`;
    }

    tell(row, entry) {
      this.telling = entry.many ? null : { row: row.id, from: entry.from, kind: entry.kind, mark: Boolean(entry.mark) };
      const words = this.say(row, entry);
      if (this.told.textContent !== words) this.told.textContent = words;
      return words;
    }

    /** What was told last, as it is by now: it has ended, or goes on. */
    tellAgain() {
      const { telling } = this;
      const row = telling && this.rows.find((each) => each.id === telling.row);
      const entry = row && this.entries(row).find((each) => each.from === telling.from && each.kind === telling.kind && Boolean(each.mark) === telling.mark);
      if (entry) this.tell(row, entry);
    }

    // -- what people do -------------------------------------------------------------------------------------------------

    listen() {
      const { stage, host } = this;
      host.addEventListener("live", () => this.model.load());
      document.addEventListener("visibilitychange", () => this.tick());
      new ResizeObserver(() => this.soon()).observe(stage);
      stage.addEventListener("scroll", () => this.soon());
      stage.addEventListener("focus", () => this.move(0));
      stage.addEventListener("blur", () => this.soon());
      stage.addEventListener("keydown", (event) => this.key(event));
      stage.addEventListener("pointermove", (event) => this.hover(event));
      stage.addEventListener("pointerdown", (event) => this.hover(event));
      stage.addEventListener("click", (event) => {
        const id = event.target.dataset?.fold;
        if (id) this.fold(id);
      });
      stage.addEventListener("dblclick", (event) => {
        const found = this.found(event);
        if (found) this.zoomTo(found[1]);
      });
      stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      host.addEventListener("click", (event) => {
        const { go } = event.target.dataset;
        if (!go) return;
        this.view = [0, 1];
        this.model.page(event.target.closest("[data-part]").dataset.part, go);
      });
      for (const button of host.querySelectorAll("[data-zoom]"))
        button.addEventListener("click", () => this.zoom({ in: 0.5, out: 2, all: Infinity }[button.dataset.zoom]));
    }

    soon() {
      if (this.frame) return;
      this.frame = requestAnimationFrame(() => {
        this.frame = null;
        this.draw();
      });
    }

    hover(event) {
      const found = this.found(event);
      if (found) this.tell(...found);
    }

    wheel(event) {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        const box = this.stage.getBoundingClientRect();
        const share = Math.min(1, Math.max(0, (event.clientX - box.left - this.gutter) / this.width));
        this.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 120), share);
      } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
        if (this.view[1] - this.view[0] > 0.999) return;
        event.preventDefault();
        this.pan(((event.deltaX || event.deltaY) / this.width) * (this.view[1] - this.view[0]));
      }
    }

    zoom(factor, share = 0.5) {
      const long = this.view[1] - this.view[0];
      const now = Math.min(1, Math.max(1e-7, long * factor));
      const begin = Math.min(1 - now, Math.max(0, this.view[0] + share * (long - now)));
      this.view = [begin, begin + now];
      this.soon();
    }

    /** Where in the view the entry is that the keys are at, so that it stays there. */
    share() {
      const share = this.current ? (this.scale.u(this.current.from) - this.view[0]) / (this.view[1] - this.view[0]) : 0.5;
      return share >= 0 && share <= 1 ? share : 0.5;
    }

    zoomTo(entry) {
      const [a, b] = [this.scale.u(entry.from), this.scale.u(entry.to ?? (entry.mark ? entry.from : this.now))];
      const around = Math.max((b - a) * 0.08, 0.002);
      this.view = [Math.max(0, a - around), Math.min(1, b + around)];
      this.soon();
    }

    pan(by) {
      const long = this.view[1] - this.view[0];
      const begin = Math.min(1 - long, Math.max(0, this.view[0] + by));
      this.view = [begin, begin + long];
      this.soon();
    }

    fold(id) {
      if (!this.folded.delete(id)) this.folded.add(id);
      this.soon();
    }

    /** Another entry of the row that the keys are in (Infinity: the last), or of another row. */
    move(by, rowsBy = 0) {
      if (!this.drawn?.length) return;
      let nth = Math.max(0, this.drawn.findIndex((row) => row.id === this.current?.row));
      if (rowsBy) nth = Math.min(this.drawn.length - 1, Math.max(0, nth + rowsBy));
      const row = this.drawn[nth];
      const entries = this.entries(row);
      if (!entries.length) return;
      let at = 0;
      if (this.current) {
        const { from, mark } = this.current;
        at = rowsBy ? Math.max(0, first(entries, (each) => each.from > from) - 1) : Math.max(0, entries.findIndex((each) => each.from === from && Boolean(each.mark) === mark));
        at = Math.min(entries.length - 1, Math.max(0, at + (Number.isFinite(by) ? by : by > 0 ? entries.length : -entries.length)));
      }
      const entry = entries[at];
      this.current = { row: row.id, from: entry.from, mark: Boolean(entry.mark) };
      const u = this.scale.u(entry.from);
      if (u < this.view[0] || u > this.view[1]) this.pan(u - (this.view[0] + this.view[1]) / 2);
      const y = nth * this.tall;
      const high = this.stage.clientHeight - AXIS;
      if (y < this.stage.scrollTop) this.stage.scrollTop = y;
      else if (y + this.tall > this.stage.scrollTop + high) this.stage.scrollTop = y + this.tall - high;
      const words = this.tell(row, entry);
      const said = document.getElementById("said");
      if (said) said.textContent = words;
      this.soon();
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const row = this.drawn?.find((each) => each.id === this.current?.row);
      const act = {
        ArrowRight: () => (event.shiftKey ? this.pan((this.view[1] - this.view[0]) / 4) : this.move(1)),
        ArrowLeft: () => (event.shiftKey ? this.pan((this.view[0] - this.view[1]) / 4) : this.move(-1)),
        ArrowDown: () => this.move(0, 1),
        ArrowUp: () => this.move(0, -1),
        PageDown: () => this.move(0, 10),
        PageUp: () => this.move(0, -10),
        Home: () => this.move(-Infinity),
        End: () => this.move(Infinity),
        "+": () => this.zoom(0.5, this.share()),
        "=": () => this.zoom(0.5, this.share()),
        "-": () => this.zoom(2, this.share()),
        0: () => this.zoom(Infinity),
        " ": () => row?.children && this.fold(row.id),
        Enter: () => {
          const entry = row && this.entries(row).find((each) => each.from === this.current.from && Boolean(each.mark) === this.current.mark);
          if (row?.href) location.href = row.href;
          else if (entry) this.zoomTo(entry);
        },
      }[event.key];
      if (!act) return;
      event.preventDefault();
      event.stopPropagation();
      act();
    }
  }

  const start = () => {
    for (const host of document.querySelectorAll("[data-timeline]:not([data-started])")) {
      host.dataset.started = "";
      host.timeline = new Timeline(host);
    }
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
