// Time on a timeline: how lengths are written, how long each stretch of time is drawn, and where an instant lies. Pure functions.
"use strict";

globalThis.torpor = { ...globalThis.torpor, ...(() => {
  // Phases that are drawn to scale. An idle stretch is at most that long, compared with all the work; and then it is broken.
  const BUSY = new Set(["starting", "working", "freezing", "thawing"]);
  const IDLE_SHARE = 0.2;
  const LEAST_IDLE_MS = 400;

  /** A length of time, as the server writes it. */
  const span = (ms) => {
    if (ms < 1000) return `${Math.round(ms)} ms`;
    if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
    const s = Math.floor(ms / 1000);
    if (s >= 86400) return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
    if (s >= 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
    return `${Math.floor(s / 60)} m ${s % 60} s`;
  };

  /** How long after the trigger, as exactly as the step between two ticks asks for. */
  const after = (ms, step) => {
    if (ms < 60_000) return `+${ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(step < 10 ? 3 : step < 100 ? 2 : step < 1000 ? 1 : 0)} s`}`;
    const s = ms / 1000;
    if (step >= 3.6e6) return `+${span(ms).replace(" 0 h", "").replace(" 0 m", "")}`;
    const [h, m] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
    if (step >= 60_000) return `+${h ? `${h} h ` : ""}${m} m`;
    return `+${h ? `${h}:${String(m).padStart(2, "0")}` : m}:${(s % 60).toFixed(step < 1000 ? 1 : 0).padStart(step < 1000 ? 4 : 2, "0")}`;
  };

  /** The first index from which `after(item)` is true; what comes before is sorted so that it isn't. */
  const first = (items, after) => {
    let low = 0;
    let high = items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (after(items[middle])) high = middle;
      else low = middle + 1;
    }
    return low;
  };

  /** Overlapping spans, and those no further apart than this, as one. */
  const merged = (spans, gap) => {
    const found = [];
    for (const [from, to] of spans.sort((one, other) => one[0] - other[0])) {
      const last = found.at(-1);
      if (last && from <= last[1] + gap) last[1] = Math.max(last[1], to);
      else found.push([from, to]);
    }
    return found;
  };

  /** The scale from the first bar's beginning to the last one's end: busy and idle stretches in turn.

      Busy is when some run works, starts, is frozen or thawed, and around each instant of interest. An idle stretch that is longer
      than IDLE_SHARE of all the busy ones is drawn that long, and broken. The last one has no end as long as a bar has none. */
  const stretches = (bars, instants, now) => {
    if (!bars.length) return { parts: [], mostIdleMs: LEAST_IDLE_MS };
    let [begin, end, isOpen, isBusyNow] = [Infinity, -Infinity, false, false];
    const busy = [];
    for (const [kind, from, to] of bars) {
      begin = Math.min(begin, from);
      end = Math.max(end, to ?? now);
      isOpen ||= to === null;
      isBusyNow ||= to === null && BUSY.has(kind);
    }
    end = Math.max(begin, end);
    for (const [kind, from, to] of bars) if (BUSY.has(kind)) busy.push([from, to ?? end]);
    const work = merged(busy, 0).reduce((sum, [from, to]) => sum + to - from, 0);
    const mostIdleMs = Math.max(work < LEAST_IDLE_MS ? LEAST_IDLE_MS : 0, work * IDLE_SHARE);
    const around = mostIdleMs / 8;
    for (const at of instants) if (at >= begin && at <= end) busy.push([Math.max(at - around, begin), Math.min(at + around, end)]);
    const idle = (from, to) => ({ from, to, idle: true, weight: Math.min(to - from, mostIdleMs), broken: to - from > 2 * mostIdleMs });
    const parts = [];
    let at = begin;
    // Idle stretches that are short beside the work stay part of it: a scale with breaks everywhere can't be read.
    for (const [from, to] of merged(busy, mostIdleMs)) {
      if (from > at) parts.push(idle(at, from));
      parts.push({ from, to, idle: false, weight: to - from, broken: false });
      at = to;
    }
    if (at < end || !parts.length) parts.push(idle(at, end));
    if (isOpen) {
      const last = parts.at(-1);
      if (last.idle || isBusyNow) Object.assign(last, { to: null, weight: null });
      else parts.push({ from: at, to: null, idle: true, weight: null, broken: false });
    }
    return { parts, mostIdleMs };
  };

  /** Instants to places from 0 to 1, and back: linear within each stretch. */
  class Scale {
    constructor(stretches, mostIdleMs, now) {
      let sum = 0;
      this.parts = stretches.map(({ from, to, idle, weight, broken }) => {
        const until = to ?? Math.max(now, from + 1);
        const long = until - from;
        const drawn = Math.max(weight ?? (idle ? Math.min(long, mostIdleMs) : long), 1e-6);
        const part = { from, until, idle, open: to === null, broken: broken || (to === null && idle && long > 2 * mostIdleMs), u: sum, drawn };
        sum += drawn;
        return part;
      });
      for (const part of this.parts) {
        part.u /= sum || 1;
        part.drawn /= sum || 1;
      }
      this.begin = this.parts[0]?.from ?? now;
      this.end = this.parts.at(-1)?.until ?? now;
    }

    u(at) {
      const part = this.parts[Math.min(first(this.parts, (each) => each.until >= at), this.parts.length - 1)];
      if (!part) return 0;
      const share = (at - part.from) / (part.until - part.from || 1);
      return part.u + part.drawn * Math.min(1, Math.max(0, share));
    }

    at(u) {
      const part = this.parts[Math.min(first(this.parts, (each) => each.u + each.drawn >= u), this.parts.length - 1)];
      if (!part) return this.begin;
      return part.from + ((u - part.u) / (part.drawn || 1)) * (part.until - part.from);
    }
  }

  return { span, after, first, stretches, Scale };
})() };
