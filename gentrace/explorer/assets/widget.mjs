// The explorer in a notebook: the same page in a frame of its own. What it asks for goes to the kernel, and comes back as
// a buffer. The frame keeps the notebook's styles out, and the page's script without rights over the notebook.

const READY = "gentrace: ready";

// A notebook's theme has another name in every host, but where it is dark its text is light.
function isDark(el) {
  const pen = new OffscreenCanvas(1, 1).getContext("2d");
  pen.fillStyle = getComputedStyle(el).color;
  pen.fillRect(0, 0, 1, 1);
  const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data;
  return 0.3 * red + 0.6 * green + 0.1 * blue > 128;
}

function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = model.get("title");
  frame.dataset.gentrace = model.get("mark");
  frame.setAttribute("sandbox", "allow-scripts allow-downloads allow-modals");
  frame.style.cssText = `width:100%;height:${model.get("height")}px;border:0`;
  // One kernel may have several views of a widget, and each hears every answer.
  const view = Array.from(crypto.getRandomValues(new Uint32Array(2))).join("-");
  let port = null;
  const heard = (event) => {
    if (event.source !== frame.contentWindow || event.data !== READY) return;
    // A frame that was moved in the document has started again, and needs a new line.
    port?.close();
    const line = new MessageChannel();
    port = line.port1;
    port.onmessage = ({ data }) => model.send({ view, id: data.id, question: data.question });
    frame.contentWindow.postMessage(READY, "*", [line.port2]);
    themed();
  };
  const answered = (content, buffers) => {
    if (content.view !== view) return;
    const [found] = buffers ?? [];
    const bytes = found && new Uint8Array(found.buffer ?? found, found.byteOffset ?? 0, found.byteLength).slice().buffer;
    port?.postMessage({ id: content.id, error: content.error, bytes }, bytes ? [bytes] : []);
  };
  // A notebook names its new theme before or after the style sheet has come.
  const themed = () => { if (el.isConnected) port?.postMessage({ dark: isDark(el) }); };
  const watch = new MutationObserver(() => { themed(); setTimeout(themed, 500); });
  for (const root of [document.documentElement, document.body]) watch.observe(root, { attributes: true });
  addEventListener("message", heard);
  model.on("msg:custom", answered);
  const theme = isDark(document.body) ? "dark" : "light";
  frame.srcdoc = model.get("page").replace("<html ", `<html data-theme="${theme}" `);
  el.append(frame);
  return () => {
    watch.disconnect();
    removeEventListener("message", heard);
    model.off("msg:custom", answered);
    port?.close();
  };
}

export default { render };
