// How a page that carries no numbers asks for them: the server that it came from, or the kernel of the notebook around it.

const PATIENCE = 4000; // milliseconds until a silent kernel is spoken of

class ServerLink {
  constructor(address) {
    this.address = address;
    this.name = "the server";
  }

  async ask(question) {
    const answer = await fetch(`${this.address}&question=${encodeURIComponent(JSON.stringify(question))}`, { cache: "no-store" })
      .catch(() => { throw new Error("the server does not answer; start gentrace view again"); });
    if (!answer.ok) throw new Error(await answer.text());
    return answer.arrayBuffer();
  }
}

class KernelLink {
  constructor() {
    this.name = "the kernel";
    this.waiting = new Map();
    this.count = 0;
    // As a media query answers; here the notebook says, first in the document itself.
    const { theme } = document.documentElement.dataset;
    this.dark = Object.assign(new EventTarget(), { matches: theme === "dark" });
    this.port = new Promise((found) => {
      addEventListener("message", (event) => {
        if (event.source !== parent || !event.ports.length) return;
        const [port] = event.ports;
        port.onmessage = ({ data }) => this.answered(data);
        found(port);
      });
    });
    // The frame around says when it is there; it may also be there already.
    parent.postMessage("gentrace: ready", "*");
  }

  async ask(question) {
    const port = await this.port;
    const id = ++this.count;
    return new Promise((done, failed) => {
      this.waiting.set(id, { done, failed });
      port.postMessage({ id, question });
      setTimeout(() => { if (this.waiting.has(id)) this.told("The kernel is busy, or it is gone; then run the cell again."); }, PATIENCE);
    });
  }

  answered({ id, bytes, error, dark }) {
    if (dark !== undefined) return this.recoloured(dark);
    const { done, failed } = this.waiting.get(id) ?? {};
    this.waiting.delete(id);
    this.told("");
    if (error) failed?.(new Error(error));
    else done?.(bytes);
  }

  told(words) {
    const place = document.getElementById("reading");
    if (words || place.textContent === this.words) place.textContent = words;
    this.words = words;
  }

  recoloured(dark) {
    if (dark === this.dark.matches) return;
    this.dark.matches = dark;
    this.dark.dispatchEvent(new Event("change"));
  }
}

// Whether it is dark around: asked of the notebook where there is one, else of the system.
export function darkAround(link) {
  return link?.dark ?? matchMedia("(prefers-color-scheme: dark)");
}

export function linkTo(link) {
  return link === null ? null : link.kind === "server" ? new ServerLink(link.address) : new KernelLink();
}
