// The packed parts made readable again: base64 undone, inflated, and of a layer's heads the mean, all of it in a worker, so
// that the page answers while it reads. Where no worker may run, as in a host that forbids it, the same is done here; so is
// what is small and wanted before the worker has started, for it would only wait.

const SMALL = 1_000_000; // characters of a text that takes a few milliseconds

// These two need nothing from outside themselves, for their source is also the worker's.

// Bytes of the heads that lie one after the other from a place on, averaged: weights[code] is what a code stands for,
// and step the logarithm of the ratio between two codes.
export function average(bytes, { from, count, size, weights, step }) {
  const sum = new Float32Array(size);
  for (let head = 0, at = from; head < count; head++) {
    for (let cell = 0; cell < size; cell++, at++) sum[cell] += weights[bytes[at]];
  }
  const codes = new Uint8Array(size);
  for (let cell = 0; cell < size; cell++) {
    const weight = sum[cell] / count;
    codes[cell] = weight > 0 ? Math.max(0, Math.min(254, Math.round(254 + Math.log(weight) / step))) : Number.isNaN(weight) ? 255 : 0;
  }
  return codes;
}

// What a part's text holds, and the mean if one is asked for.
async function decode({ text, mean }) {
  if (!globalThis.DecompressionStream) throw new Error("this browser cannot inflate data (DecompressionStream)");
  const bytes = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return { buffer, mean: mean && average(new Uint8Array(buffer), mean).buffer };
}

// What the worker does, beside the two above.
function listen() {
  postMessage("started");
  onmessage = async ({ data: { id, job } }) => {
    try {
      const done = await decode(job);
      postMessage({ id, done }, [done.buffer, done.mean].filter(Boolean));
    } catch (error) {
      postMessage({ id, failed: error.message });
    }
  };
}

export class Decoder {
  constructor() {
    this.waiting = new Map();
    this.count = 0;
    this.started = false;
    const source = [average, decode, `(${listen})();`].join("\n");
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    try {
      this.worker = new Worker(address);
      this.worker.onmessage = ({ data }) => {
        if (data === "started") this.started = true;
        else this.answered(data);
      };
      this.worker.onerror = (event) => { event.preventDefault(); this.alone(); };
    } catch {
      this.worker = null;
    }
  }

  decode(job) {
    if (!this.worker || (!this.started && job.text.length < SMALL)) return decode(job);
    const id = ++this.count;
    return new Promise((done, failed) => {
      this.waiting.set(id, { job, done, failed });
      this.worker.postMessage({ id, job });
    });
  }

  answered({ id, done, failed }) {
    const one = this.waiting.get(id);
    this.waiting.delete(id);
    if (failed) one.failed(new Error(failed));
    else one.done(done);
  }

  // The worker could not start: what it was given is done here.
  alone() {
    this.worker = null;
    for (const { job, done, failed } of this.waiting.values()) decode(job).then(done, failed);
    this.waiting.clear();
  }

  // Nothing more is to come.
  end() {
    this.worker?.terminate();
    this.worker = null;
  }
}
