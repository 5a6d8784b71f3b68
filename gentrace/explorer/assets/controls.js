// Play, pause and step. Knows positions and time, nothing of what is shown.

const SPEEDS = [1, 2, 4, 8, 15, 30];

export class Controls {
  constructor(go) {
    this.go = go;
    for (const id of ["first", "back", "play", "forward", "last", "slider", "speed", "row", "end"]) this[id] = document.getElementById(id);
    this.speed.append(...SPEEDS.map((speed) => new Option(`${speed} / s`, speed, speed === 4, speed === 4)));
    this.first.addEventListener("click", () => this.move(this.start));
    this.back.addEventListener("click", () => this.move(this.step - 1));
    this.forward.addEventListener("click", () => this.move(this.step + 1));
    this.last.addEventListener("click", () => this.move(this.stop - 1));
    this.play.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => this.move(Number(this.slider.value)));
  }

  show(step, [start, stop], begin) {
    Object.assign(this, { step, start, stop, begin });
    this.slider.min = start;
    this.slider.max = stop - 1;
    this.slider.value = step;
    this.first.disabled = this.back.disabled = step <= start;
    this.forward.disabled = this.last.disabled = step >= stop - 1;
    this.row.textContent = step;
    this.end.textContent = stop - 1;
  }

  move(step) {
    this.pause();
    this.go(step);
  }

  toggle() {
    if (this.playing) this.move(this.step);
    else this.run();
  }

  run() {
    this.dress(true);
    this.go(this.step >= this.stop - 1 ? this.begin : this.step);
    let due = performance.now() + 1000 / Number(this.speed.value);
    const tick = (now) => {
      if (!this.playing) return;
      if (now >= due) {
        due = Math.max(due + 1000 / Number(this.speed.value), now);
        this.go(this.step + 1);
        if (this.step >= this.stop - 1) return this.move(this.step);
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  pause() {
    if (this.playing) this.dress(false);
  }

  dress(playing) {
    this.playing = playing;
    this.play.classList.toggle("playing", playing);
    this.play.setAttribute("aria-label", playing ? "Pause" : "Play");
  }
}
