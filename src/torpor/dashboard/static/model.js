// What the server tells of a run's timeline (dashboard/run_model.py): whole at first, then only what is new.
//
// Of a long story it has the beginning and a window, which is the newest part as long as nobody looks at another one. When much has
// come since, the window is asked for anew: so what is held here is bounded, however long the run goes on.
"use strict";

(() => {
  const MOST_NEWS = { story: 2000, lines: 5000 };
  const COUNTED = 100_000;
  const LANES = 12;
  const KIN_EVERY_MS = 3000;

  class Model {
    constructor(url, changed) {
      this.url = url;
      this.changed = changed;
      this.kin = new Map();
      this.waits = new Map();
      this.attempts = [];
      this.asked = {};
      this.loadedAt = 0;
      this.offset = 0;
    }

    get now() {
      return Date.now() + this.offset;
    }

    // -- asking -----------------------------------------------------------------------------------------------------

    async load() {
      if (this.loading) {
        this.again = true;
        return;
      }
      this.loading = true;
      try {
        do {
          this.again = false;
          const answer = await fetch(`${this.url}?${this.query()}`, { headers: { accept: "application/json" } });
          if (!answer.ok || answer.redirected) return;
          this.take(await answer.json());
        } while (this.again);
      } catch {
        // The server is away; the next change is heard when it is back.
      } finally {
        this.loading = false;
      }
    }

    query() {
      const asked = new URLSearchParams();
      for (const name of ["story", "lines"]) {
        const part = this[name];
        const place = this.asked[name];
        delete this.asked[name];
        if (place === "newest" || !part || (!place && part.isStale)) continue;
        if (place) asked.set(name, place);
        else if (part.after) asked.set(name, "still");
        else asked.set(name, name === "story" ? `${part.anchor}.${part.last}` : part.last);
      }
      if (this.seen) asked.set("seen", this.seen);
      return asked;
    }

    /** The window before or after the one that is here, or the newest one. */
    page(name, way) {
      const part = this[name];
      this.asked[name] = way === "before" ? `before:${part.first}` : way === "after" ? `after:${part.last}` : "newest";
      this.load();
    }

    /** Runs below tell nobody here that they go on. */
    refreshKin() {
      if (this.isKinOpen && performance.now() - this.loadedAt > KIN_EVERY_MS) this.load();
    }

    // -- taking -----------------------------------------------------------------------------------------------------

    take(told) {
      this.loadedAt = performance.now();
      this.offset = told.now - Date.now();
      this.over = told.over;
      this.name = told.name;
      this.seen = told.seen;
      this.attempts = told.attempts;
      if (told.kinCut !== undefined) this.kinCut = told.kinCut;
      if (this.story && told.kin.length) document.dispatchEvent(new Event("kin")); // the page's lists of them are older now
      if (told.story) this.takeStory(told.story);
      if (told.lines) this.takeLines(told.lines);
      for (const one of told.kin) this.kin.set(one.id, one);
      this.isKinOpen = [...this.kin.values()].some((one) => one.bars.at(-1)?.[2] === null);
      this.changed();
    }

    takeStory(told) {
      if (told.is === "all") {
        this.story = { ...told, fresh: 0 };
        this.waits.clear();
      } else {
        const part = this.story;
        const base = part.anchorBars;
        part.bars.length = base;
        part.bars.push(...told.bars);
        part.marks.push(...told.marks);
        part.fresh += told.count;
        Object.assign(part, { anchor: told.anchor, anchorBars: base + told.anchorBars, last: told.last });
        part.isStale = part.fresh > MOST_NEWS.story;
      }
      for (const [id, ...bar] of told.waits) this.waits.set(id, bar);
      if (this.waits.size > 2 * MOST_NEWS.story) this.story.isStale = true;
    }

    takeLines(told) {
      if (told.is === "all") this.lines = { ...told, fresh: 0 };
      else {
        this.lines.rows.push(...told.rows);
        this.lines.last = told.last;
        this.lines.fresh += told.rows.length;
        this.lines.isStale = this.lines.fresh > MOST_NEWS.lines;
      }
      this.lines.rows.sort((one, other) => one[1] - other[1]);
    }

    // -- telling ----------------------------------------------------------------------------------------------------

    get isOpen() {
      return !this.over || this.isKinOpen;
    }

    leftOut(name) {
      const { before, after } = this[name] ?? {};
      if (!before && !after) return "";
      const what = name === "story" ? "entries of the story" : "lines of output";
      const many = (count) => `${count > COUNTED ? "more than " : ""}${Math.min(count, COUNTED).toLocaleString()}`;
      const where = [before && `${many(before)} after the beginning`, after && `${many(after)} at the end`].filter(Boolean);
      return `Not shown of the ${what}: ${where.join(", ")}.`;
    }

    /** From top to bottom; each run stands below the one that triggered it. */
    rows() {
      const row = (id, label, kind, bars, more = {}) => ({ id, label, kind, bars, marks: [], depth: 0, parent: null, ...more });
      const children = new Map();
      for (const one of this.kin.values()) {
        const parent = this.kin.has(one.parent) ? one.parent : "run";
        children.set(parent, [...(children.get(parent) ?? []), one]);
      }
      const found = [row("run", this.name, "run", this.story.bars, { marks: this.story.marks, children: children.has("run") })];
      if (this.attempts.length > 1) found.push(row("attempts", "attempts", "attempts", this.attempts));
      this.lanes().forEach((bars, nth) => found.push(row(`waits ${nth}`, nth ? "" : "waits", "waits", bars)));
      if (this.lines?.rows.length) {
        const shown = this.lines.rows.length;
        const label = shown === 1 ? "1 line" : `${shown.toLocaleString()} lines`;
        found.push(row("log", label, "log", this.gaps(), { marks: this.lines.rows }));
      }
      const below = (parent, depth) => {
        for (const one of children.get(parent) ?? []) {
          const more = { marks: one.marks, depth, parent, href: `/runs/${one.id}`, children: children.has(one.id) };
          found.push(row(one.id, one.label, "kin", one.bars, more));
          below(one.id, depth + 1);
        }
      };
      below("run", 1);
      return found;
    }

    /** Waits that were open at once lie below each other. */
    lanes() {
      const found = [];
      for (const bar of [...this.waits.values()].sort((one, other) => one[1] - other[1])) {
        const lane = found.find((bars) => bars.at(-1)[2] !== null && bars.at(-1)[2] <= bar[1]);
        if (lane) lane.push(bar);
        else if (found.length < LANES) found.push([bar]);
      }
      return found;
    }

    /** Where lines of output are left out. */
    gaps() {
      const { rows, head, before, after } = this.lines;
      const bars = [];
      if (before) bars.push(["skipped", rows[head - 1][1], rows[head][1], "", `${before > COUNTED ? "Many" : before.toLocaleString()} lines not shown here`]);
      if (after) bars.push(["skipped", rows.at(-1)[1], this.over ? this.end() : null, "", "Later lines are not shown here"]);
      return bars;
    }

    end() {
      return Math.max(this.lines.rows.at(-1)[1], this.story.bars.at(-1)?.[2] ?? this.now);
    }
  }

  globalThis.torpor.Model = Model;
})();
