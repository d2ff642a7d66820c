// Which windows of this browser may hold a stream open. With HTTP/1.1 it has six connections for one server, however many windows
// show it, and the seventh would wait for ever: four may be streams.
//
// A place is a line in localStorage that its window writes anew each second. Web Locks would say the same, but a page that came over
// plain HTTP from another machine has none.
"use strict";

(() => {
  const PLACES = 4;
  const RENEWED_MS = 1000;
  const KEPT_MS = 5000; // of a window that has ended without a word
  const WRITTEN_MS = 60; // until two windows that take the same place see whose it is

  const own = Array.from(crypto.getRandomValues(new Uint32Array(2)), (part) => part.toString(36)).join("");

  class Place {
    static async take(lost) {
      for (let number = 0; number < PLACES; number += 1) {
        const place = new Place(`torpor-stream-${number}`, lost);
        if (!place.isFree) continue;
        place.write();
        await new Promise((done) => setTimeout(done, WRITTEN_MS));
        if (place.isOwn) return place.keep();
      }
      return null;
    }

    constructor(name, lost) {
      this.name = name;
      this.lost = lost;
    }

    read() {
      const [who, at] = (localStorage.getItem(this.name) ?? "").split(" ");
      return { who, age: Math.abs(Date.now() - Number(at)) };
    }

    write() {
      localStorage.setItem(this.name, `${own} ${Date.now()}`);
    }

    get isOwn() {
      return this.read().who === own;
    }

    get isFree() {
      const { who, age } = this.read();
      return !who || who === own || !(age < KEPT_MS);
    }

    keep() {
      this.timer = setInterval(() => {
        if (this.isOwn) return this.write();
        clearInterval(this.timer);
        this.lost();
      }, RENEWED_MS);
      return this;
    }

    leave() {
      clearInterval(this.timer);
      if (this.isOwn) localStorage.removeItem(this.name);
    }
  }

  globalThis.torpor = { ...globalThis.torpor, Place };
})();
