// Draws a run's timeline: rows of bars over time, of which only what is in view is in the page.
//
// model.js has what the server tells, scale.js says where an instant lies. Here it becomes SVG, however many entries there are: bars
// narrower than a pixel fall together, and so do dots that would lie on each other. The list of the story below says the same in
// words, so the drawing is one stop of the Tab key, with arrow keys inside.
"use strict";

(() => {
  const { span, after, first, stretches, Scale, Model } = globalThis.torpor;
  const NS = "http://www.w3.org/2000/svg";
  const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1.5e4, 3e4, 6e4, 1.2e5, 3e5, 6e5, 9e5, 1.8e6,
    3.6e6, 7.2e6, 1.08e7, 2.16e7, 4.32e7, 8.64e7, 1.728e8, 6.048e8, 2.592e9, 7.776e9, 3.1536e10];
  const AXIS = 30;
  const DOT = 7;
  const SEVERITY = { debug: 0, info: 1, output: 1, note: 1, save: 1, move: 2, end: 2, warning: 3, trouble: 4, failure: 5, error: 4, critical: 5 };

  const svg = (name, attributes = {}, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  class Timeline {
    constructor(host) {
      this.host = host;
      this.stage = host.querySelector("[data-stage]");
      this.told = host.querySelector("[data-told]");
      this.canvas = svg("svg", { class: "tl", "aria-hidden": "true" });
      this.room = document.createElement("div");
      this.stage.append(this.canvas, this.room);
      this.view = [0, 1];
      this.folded = new Set();
      this.current = null; // {row, nth}: the entry that the keys are at
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

    // -- the drawing ----------------------------------------------------------------------------------------------------

    draw() {
      if (!this.rows) return;
      const kept = this.scale && this.view[1] - this.view[0] < 0.999 ? this.view.map((u) => this.scale.at(u)) : null;
      this.scale = new Scale(this.time.parts, this.time.mostIdleMs, this.now);
      if (kept) this.view = kept.map((at) => this.scale.u(at));
      const wide = this.stage.clientWidth;
      const narrow = wide < 640;
      this.gutter = narrow ? 0 : 168;
      this.tall = narrow ? 44 : 32;
      const rows = this.shown();
      const whole = AXIS + rows.length * this.tall + 8;
      const high = Math.min(whole, Math.max(240, Math.floor(window.innerHeight * 0.6)));
      this.stage.style.height = `${high}px`;
      this.room.style.height = `${whole - high}px`;
      this.width = Math.max(60, wide - this.gutter - 14);
      this.canvas.setAttribute("width", wide);
      this.canvas.setAttribute("height", high);
      const top = this.stage.scrollTop;
      const parts = document.createDocumentFragment();
      parts.append(this.defs(wide, high));
      const drawing = svg("g", { "clip-path": "url(#tl-rows)" });
      this.breaks(drawing, high);
      this.targets = [];
      const from = Math.max(0, Math.floor(top / this.tall));
      for (let nth = from; nth < rows.length && AXIS + nth * this.tall - top < high; nth += 1)
        this.drawRow(drawing, rows[nth], AXIS + nth * this.tall - top, narrow);
      if (this.model.isOpen) {
        const x = this.x(this.now);
        drawing.append(svg("line", { class: "tl-now", x1: x, x2: x, y1: AXIS - 6, y2: high }));
      }
      parts.append(drawing, this.axis(high));
      this.canvas.replaceChildren(parts);
      this.drawn = rows;
    }

    defs(wide, high) {
      const defs = svg("defs");
      const ice = svg("pattern", { id: "tl-ice", width: 9, height: 9, patternUnits: "userSpaceOnUse", patternTransform: "rotate(35)" });
      ice.append(svg("rect", { class: "tl-ice-ground", width: 9, height: 9 }), svg("line", { class: "tl-ice-line", x1: 0, x2: 0, y1: 0, y2: 9 }), svg("line", { class: "tl-ice-fine", x1: 5, x2: 5, y1: 0, y2: 9 }));
      const clip = svg("clipPath", { id: "tl-rows" });
      clip.append(svg("rect", { x: 0, y: AXIS - 8, width: wide, height: high }));
      const bars = svg("clipPath", { id: "tl-bars" });
      bars.append(svg("rect", { x: this.gutter, y: 0, width: wide - this.gutter, height: high }));
      defs.append(ice, clip, bars);
      return defs;
    }

    x(at) {
      return this.xOf(this.scale.u(at));
    }

    xOf(u) {
      return this.gutter + ((u - this.view[0]) / (this.view[1] - this.view[0])) * this.width;
    }

    /** Where time is compressed: a band across all rows, with its slashes, and how much is hidden there. */
    breaks(drawing, high) {
      for (const part of this.scale.parts) {
        if (!part.broken) continue;
        const [left, right] = [this.xOf(part.u), this.xOf(part.u + part.drawn)];
        if (right < this.gutter || left > this.gutter + this.width || right - left < 3) continue;
        drawing.append(svg("rect", { class: "tl-gap", x: Math.max(left, this.gutter), y: AXIS - 2, width: Math.max(0, Math.min(right, this.gutter + this.width) - Math.max(left, this.gutter)), height: high }));
      }
    }

    axis(high) {
      const axis = svg("g", { class: "tl-axis" });
      axis.append(svg("line", { class: "tl-rule", x1: this.gutter, x2: this.gutter + this.width, y1: AXIS - 5, y2: AXIS - 5 }));
      const [left, right] = [this.gutter, this.gutter + this.width];
      const taken = [];
      const label = (x, text, kind, anchor = "middle") => {
        const half = text.length * 3.4;
        const begin = anchor === "middle" ? x - half : anchor === "start" ? x : x - 2 * half;
        if (begin < left - 1 || begin + 2 * half > right + 14) return;
        if (taken.some(([from, to]) => begin < to + 8 && begin + 2 * half > from - 8)) return;
        axis.append(svg("text", { class: kind, x, y: AXIS - 12, "text-anchor": anchor }, text));
        taken.push([begin, begin + 2 * half]);
      };
      const seen = this.scale.parts.map((part) => [part, this.xOf(part.u), this.xOf(part.u + part.drawn)]).filter(([, a, b]) => b >= left && a <= right && b - a >= 8);
      for (const [part, a, b] of seen) {
        if (!part.broken) continue;
        const middle = (Math.max(a, left) + Math.min(b, right)) / 2;
        axis.append(svg("path", { class: "tl-break", d: `M${middle - 7} ${AXIS - 5}l3 -5 4 10 4 -10 3 5` }));
        label(middle, span(part.until - part.from), "tl-hidden");
      }
      if (this.view[0] < 0.001) label(left, "+0", "tl-tick", "start");
      for (const [part, a, b] of seen) {
        if (part.broken) continue;
        const each = (b - a) / (part.until - part.from);
        const step = STEPS.find((one) => one * each >= 78);
        if (!step) continue;
        const since = Math.max(part.from, this.scale.at(this.view[0]));
        for (let at = Math.ceil((since - this.scale.begin) / step) * step; ; at += step) {
          const x = this.x(this.scale.begin + at);
          if (this.scale.begin + at > part.until || x > right) break;
          if (at === 0 || x < left) continue;
          axis.append(svg("line", { class: "tl-rule", x1: x, x2: x, y1: AXIS - 9, y2: AXIS - 5 }));
          label(x, after(at, step), "tl-tick");
        }
      }
      return axis;
    }

    drawRow(drawing, row, y, narrow) {
      const [labelY, top] = narrow ? [y + 12, y + 17] : [y + 20, y + 4];
      const deep = Math.min(row.depth, 6) * 12;
      drawing.append(svg("line", { class: "tl-lane", x1: 0, x2: this.gutter + this.width + 14, y1: y - 1, y2: y - 1 }));
      const text = svg("text", { class: `tl-label${row.href ? " tl-link" : ""}`, x: 2 + deep + (row.children ? 14 : 0), y: labelY });
      const room = narrow ? 40 : Math.max(6, Math.floor((this.gutter - deep - 24) / 6.6));
      text.textContent = row.label.length > room ? `${row.label.slice(0, room - 1)}…` : row.label;
      if (row.href) {
        const link = svg("a", { href: row.href, tabindex: "-1" });
        link.append(text);
        drawing.append(link);
      } else drawing.append(text);
      if (row.children) {
        const fold = svg("path", { class: "tl-fold", d: this.folded.has(row.id) ? `M${deep + 3} ${labelY - 9}l6 5 -6 5z` : `M${deep + 2} ${labelY - 7}h9l-4.5 6z`, "data-fold": row.id });
        drawing.append(fold);
      }
      const held = svg("g", { "clip-path": "url(#tl-bars)" });
      if (row.bars.length) this.drawBars(held, row, top);
      if (row.marks.length) this.drawMarks(held, row, top);
      drawing.append(held);
    }

    drawBars(held, row, top) {
      const right = this.gutter + this.width;
      const high = row.kind === "run" ? 24 : 20;
      const until = (bar) => bar[2] ?? this.now;
      const [since, till] = this.view.map((u) => this.scale.at(u));
      let drawn = -1;
      for (let nth = first(row.bars, (bar) => until(bar) >= since); nth < row.bars.length; nth += 1) {
        const bar = row.bars[nth];
        if (bar[1] > till) break;
        const left = this.x(bar[1]);
        const exact = this.x(until(bar));
        const last = Math.max(exact, left + 2);
        if (last <= drawn + 0.5 || (exact - left < 2 && left < drawn)) continue; // little or nothing of it would be seen
        drawn = last;
        const x = Math.max(left, this.gutter - 4);
        const width = Math.max(2, Math.min(last, right + 4) - x - (exact - left > 4 ? 1 : 0));
        const shape = svg("rect", { class: `tl-bar tl-${bar[0]}${bar[2] === null ? " tl-open" : ""}`, x, y: top, width, height: high, rx: Math.min(4, width / 2) });
        if (bar[0] === "frozen") shape.setAttribute("fill", "url(#tl-ice)");
        this.target(shape, row, { from: bar[1], to: bar[2], kind: bar[0], told: bar[4] });
        held.append(shape);
        this.words(held, bar, x, width, top, high);
        if (this.isCurrent(row, bar[1], false)) held.append(svg("rect", { class: "tl-focus", x: x - 2, y: top - 2, width: width + 4, height: high + 4, rx: 5 }));
      }
    }

    /** As much of a bar's label as has room in it. */
    words(held, bar, x, width, top, high) {
      const sign = bar[0] === "frozen" && width > 18;
      let left = x + 7;
      if (sign) {
        const [cx, cy] = [x + 11, top + high / 2];
        held.append(svg("path", { class: "tl-flake", d: `M${cx} ${cy - 6}v12M${cx - 5.2} ${cy - 3}l10.4 6M${cx + 5.2} ${cy - 3}l-10.4 6` }));
        left = x + 22;
      }
      const parts = bar[3].split(" · ");
      const room = (x + width - left - 5) / 6.5;
      if (sign && parts.length > 1 && parts.join(" · ").length > room) parts.shift(); // the sign says it already; how large matters more
      while (parts.length && parts.join(" · ").length > room) parts.pop();
      if (parts.length) held.append(svg("text", { class: `tl-words tl-on-${bar[0]}`, x: left, y: top + high / 2 + 4 }, parts.join(" · ")));
    }

    drawMarks(held, row, top) {
      const isLog = row.kind === "log";
      const [at, kind, told] = isLog ? [1, 2, 3] : [1, 0, 2];
      const [since, till] = this.view.map((u) => this.scale.at(u));
      const middle = top + (row.kind === "run" ? 12 : 10);
      let open = null;
      const put = () => {
        if (!open) return;
        const cls = `tl-mark tl-tone-${open.kind}`;
        const shape = isLog
          ? svg("circle", { class: cls, cx: open.x, cy: middle, r: open.many > 1 ? 4.5 : 3.5 })
          : svg("path", { class: cls, d: `M${open.x} ${middle - 7}l6 7 -6 7 -6 -7z` });
        const say = open.many > 1 ? `${open.many.toLocaleString()} ${isLog ? "lines" : "events"}, among them: ${open.told}` : open.told;
        this.target(shape, row, { from: open.from, kind: open.kind, told: say, mark: true, many: open.many > 1 });
        held.append(shape);
        if (open.focused) held.append(svg("circle", { class: "tl-focus", cx: open.x, cy: middle, r: 8 }));
        open = null;
      };
      for (let nth = first(row.marks, (mark) => mark[at] >= since); nth < row.marks.length; nth += 1) {
        const mark = row.marks[nth];
        if (mark[at] > till) break;
        if (open && mark[at] < open.until) {
          open.many += 1;
          if ((SEVERITY[mark[kind]] ?? 1) > (SEVERITY[open.kind] ?? 1)) Object.assign(open, { kind: mark[kind], told: mark[told] });
        } else {
          put();
          const x = this.x(mark[at]);
          const until = this.scale.at(this.scale.u(mark[at]) + ((isLog ? DOT : 10) / this.width) * (this.view[1] - this.view[0]));
          open = { x, until, from: mark[at], kind: mark[kind], told: mark[told], many: 1 };
        }
        if (this.isCurrent(row, mark[at], true)) open.focused = true;
      }
      put();
    }

    target(shape, row, entry) {
      shape.setAttribute("data-entry", this.targets.length);
      this.targets.push([row, entry]);
    }

    isCurrent(row, from, mark) {
      const at = this.current;
      return at !== null && document.activeElement === this.stage && at.row === row.id && at.from === from && at.mark === mark;
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
        const found = this.targets[event.target.dataset?.entry];
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
      const found = this.targets?.[event.target.dataset?.entry];
      if (found) this.told.textContent = this.say(...found);
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
      const words = this.say(row, entry);
      this.told.textContent = words;
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
        Home: () => this.move(-Infinity),
        End: () => this.move(Infinity),
        "+": () => this.zoom(0.5),
        "=": () => this.zoom(0.5),
        "-": () => this.zoom(2),
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
