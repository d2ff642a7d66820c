// How a run's timeline is drawn: as SVG, of which only what is in view is in the page, however many entries there are. Bars narrower
// than a pixel fall together, those too narrow for a word are one shape for each kind, and so do dots that would lie on each other.
//
// A frame is drawn from nothing but what is held here: nothing of the page is read once something has been written.
"use strict";

(() => {
  const { span, after, first, Scale } = globalThis.torpor;
  const NS = "http://www.w3.org/2000/svg";
  const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1.5e4, 3e4, 6e4, 1.2e5, 3e5, 6e5, 9e5, 1.8e6,
    3.6e6, 7.2e6, 1.08e7, 2.16e7, 4.32e7, 8.64e7, 1.728e8, 6.048e8, 2.592e9, 7.776e9, 3.1536e10];
  const AXIS = 30;
  const DOT = 7;
  const NARROW = 8;
  const MANY = 100; // bars of a row, from which on the narrow ones are drawn together
  const SEVERITY = { debug: 0, info: 1, output: 1, note: 1, save: 1, move: 2, end: 2, warning: 3, trouble: 4, failure: 5, error: 4, critical: 5 };

  const svg = (name, attributes = {}, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  class Drawing {
    draw() {
      if (!this.rows) return;
      this.rescale();
      const [wide, top] = [this.stage.clientWidth, this.stage.scrollTop]; // before anything is written
      const narrow = wide < 640;
      this.gutter = narrow ? 0 : 168;
      this.tall = narrow ? 44 : 32;
      const rows = this.shown();
      const whole = AXIS + rows.length * this.tall + 8;
      const high = Math.min(whole, Math.max(240, Math.floor(window.innerHeight * 0.6)));
      this.width = Math.max(60, wide - this.gutter - 14);
      this.resize(wide, high, whole);
      const drawing = svg("g", { "clip-path": "url(#tl-rows)" });
      this.breaks(drawing, high);
      this.targets = [];
      this.focused = document.activeElement === this.stage ? this.current : null;
      const from = Math.max(0, Math.floor(top / this.tall));
      for (let nth = from; nth < rows.length && AXIS + nth * this.tall - top < high; nth += 1)
        this.drawRow(drawing, rows[nth], AXIS + nth * this.tall - top, narrow);
      if (this.model.isOpen) {
        const x = this.x(this.now);
        drawing.append(svg("line", { class: "tl-now", x1: x, x2: x, y1: AXIS - 6, y2: high }));
      }
      this.canvas.replaceChildren(this.defs, drawing, this.axis(high));
      this.drawn = rows;
    }

    /** The end of a run that goes on moves, and the whole scale with it: a few times in a second. */
    rescale() {
      const isOpen = this.time.parts.at(-1)?.to === null;
      if (this.scaled?.time === this.time && !(isOpen && performance.now() - this.scaled.at > 200)) return;
      const kept = this.scale && this.view[1] - this.view[0] < 0.999 ? this.view.map((u) => this.scale.at(u)) : null;
      this.scale = new Scale(this.time.parts, this.time.mostIdleMs, this.now);
      if (kept) this.view = kept.map((at) => this.scale.u(at));
      this.scaled = { time: this.time, at: performance.now() };
    }

    /** Parts of the scale that are in view and at least so wide: [part, left, right]. */
    *inView(least) {
      const { parts } = this.scale;
      const each = this.width / (this.view[1] - this.view[0]);
      for (let nth = first(parts, (part) => part.u + part.drawn >= this.view[0]); nth < parts.length && parts[nth].u <= this.view[1]; nth += 1) {
        const part = parts[nth];
        if (part.drawn * each >= least) yield [part, this.xOf(part.u), this.xOf(part.u + part.drawn)];
      }
    }

    /** Sizes change seldom, and each write of one has all be laid out anew. */
    resize(wide, high, whole) {
      if (`${[wide, high, whole]}` === this.sized) return;
      this.sized = `${[wide, high, whole]}`;
      this.stage.style.height = `${high}px`;
      this.room.style.height = `${whole - high}px`;
      this.canvas.setAttribute("width", wide);
      this.canvas.setAttribute("height", high);
      this.defs = this.patterns(wide, high);
    }

    patterns(wide, high) {
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

    atX(x) {
      return this.scale.at(this.view[0] + ((x - this.gutter) / this.width) * (this.view[1] - this.view[0]));
    }

    xOf(u) {
      return this.gutter + ((u - this.view[0]) / (this.view[1] - this.view[0])) * this.width;
    }

    /** Where time is compressed: a band across all rows, with its slashes, and how much is hidden there. */
    breaks(drawing, high) {
      for (const [part, left, right] of this.inView(3)) {
        if (!part.broken) continue;
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
      const seen = [...this.inView(8)];
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
      const narrow = new Map(); // of bars too narrow for a word, one shape per kind
      for (let nth = first(row.bars, (bar) => until(bar) >= since); nth < row.bars.length; nth += 1) {
        const bar = row.bars[nth];
        if (bar[1] > till) break;
        const left = this.x(bar[1]);
        const exact = this.x(until(bar));
        const last = Math.max(exact, left + 2);
        if (last <= drawn + 0.5 || (exact - left < 2 && left < drawn)) { // little or nothing of it would be seen, or of those up to there
          const at = this.atX(drawn + 0.5);
          nth = Math.max(nth, first(row.bars, (each) => until(each) > at) - 1);
          continue;
        }
        drawn = last;
        const x = Math.max(left, this.gutter - 4);
        const width = Math.max(2, Math.min(last, right + 4) - x - (exact - left > 4 ? 1 : 0));
        const isCurrent = this.isCurrent(row, bar[1], false);
        if (width < NARROW && row.bars.length > MANY && bar[2] !== null) {
          const drawing = `M${Math.round(10 * x) / 10} ${top}h${Math.round(10 * width) / 10}v${high}h-${Math.round(10 * width) / 10}z`;
          narrow.set(bar[0], (narrow.get(bar[0]) ?? "") + drawing);
          if (isCurrent) held.append(this.focusOf(x, top, width, high));
          continue;
        }
        const shape = svg("rect", { class: `tl-bar tl-${bar[0]}${bar[2] === null ? " tl-open" : ""}`, x, y: top, width, height: high, rx: Math.min(4, width / 2) });
        if (bar[0] === "frozen") shape.setAttribute("fill", "url(#tl-ice)");
        this.target(shape, row, { from: bar[1], to: bar[2], kind: bar[0], told: bar[4] });
        held.append(shape);
        this.words(held, bar, x, width, top, high);
        if (isCurrent) held.append(this.focusOf(x, top, width, high));
      }
      for (const [kind, drawing] of narrow) {
        const shape = svg("path", { class: `tl-bar tl-many tl-${kind}`, d: drawing });
        if (kind === "frozen") shape.setAttribute("fill", "url(#tl-ice)");
        this.target(shape, row, null);
        held.prepend(shape);
      }
    }

    focusOf(x, top, width, high) {
      return svg("rect", { class: "tl-focus", x: x - 2, y: top - 2, width: width + 4, height: high + 4, rx: 5 });
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

    /** `entry` is null for a shape of many bars: which of them, the pointer's place says. */
    target(shape, row, entry) {
      shape.setAttribute("data-entry", this.targets.length);
      this.targets.push([row, entry]);
    }

    isCurrent(row, from, mark) {
      const at = this.focused;
      return at !== null && at.row === row.id && at.from === from && at.mark === mark;
    }

    found(event) {
      const [row, entry] = this.targets?.[event.target.dataset?.entry] ?? [];
      if (!row || entry) return row && [row, entry];
      const x = event.clientX - this.stage.getBoundingClientRect().left;
      const at = this.atX(x);
      const bar = row.bars[Math.min(row.bars.length - 1, first(row.bars, (each) => (each[2] ?? this.now) >= at))];
      return [row, { from: bar[1], to: bar[2], kind: bar[0], told: bar[4] }];
    }
  }

  globalThis.torpor = { ...globalThis.torpor, Drawing, svg, AXIS };
})();
