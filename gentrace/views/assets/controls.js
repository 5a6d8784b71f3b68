"use strict";
// Play, pause, step: by button, slider and key. Knows positions and time, nothing of what is shown.

const SPEEDS = [1, 2, 4, 8, 15, 30];

class Controls {
  constructor([start, stop], begin, show) {
    for (const id of ["first", "back", "play", "forward", "last", "slider", "speed"]) this[id] = document.getElementById(id);
    [this.start, this.end, this.begin, this.show] = [start, stop - 1, begin, show];
    this.row = begin;
    this.slider.min = start;
    this.slider.max = this.end;
    this.speed.append(...SPEEDS.map((speed) => new Option(`${speed} / s`, speed, speed === 4, speed === 4)));
    this.first.addEventListener("click", () => this.go(this.start));
    this.back.addEventListener("click", () => this.go(this.row - 1));
    this.forward.addEventListener("click", () => this.go(this.row + 1));
    this.last.addEventListener("click", () => this.go(this.end));
    this.play.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  go(row) {
    this.pause();
    this.set(row);
  }

  set(row) {
    this.row = Math.min(Math.max(row, this.start), this.end);
    this.slider.value = this.row;
    this.first.disabled = this.back.disabled = this.row === this.start;
    this.forward.disabled = this.last.disabled = this.row === this.end;
    this.show(this.row, this.playing);
  }

  toggle() {
    if (this.playing) this.go(this.row);
    else this.run();
  }

  run() {
    this.setPlaying(true);
    this.set(this.row === this.end ? this.begin : this.row);
    let due = performance.now() + 1000 / Number(this.speed.value);
    const tick = (now) => {
      if (!this.playing) return;
      if (now >= due) {
        const wait = 1000 / Number(this.speed.value);
        due = Math.max(due + wait, now);
        this.set(this.row + 1);
        if (this.row === this.end) return this.go(this.row);
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  pause() {
    if (this.playing) this.setPlaying(false);
  }

  setPlaying(playing) {
    this.playing = playing;
    this.play.classList.toggle("playing", playing);
    this.play.setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input[type=radio]")) return;
    const pressesButton = event.target.closest("button") && event.target !== this.play;
    const far = event.shiftKey ? 10 : 1;
    const moves = {
      " ": () => this.toggle(), ArrowLeft: () => this.go(this.row - far), ArrowRight: () => this.go(this.row + far),
      Home: () => this.go(this.start), End: () => this.go(this.end),
    };
    if (!moves[event.key] || (event.key === " " && pressesButton)) return;
    event.preventDefault();
    moves[event.key]();
  }
}
