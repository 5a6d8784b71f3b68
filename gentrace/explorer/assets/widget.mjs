// The explorer in a notebook: the same page in a frame of its own. What it asks for goes to the kernel, and comes back as
// a buffer. The frame keeps the notebook's styles out, and the page's script without rights over the notebook.

const READY = "gentrace: ready";

function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = model.get("title");
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
  };
  const answered = (content, buffers) => {
    if (content.view !== view) return;
    const [found] = buffers ?? [];
    const bytes = found && new Uint8Array(found.buffer ?? found, found.byteOffset ?? 0, found.byteLength).slice().buffer;
    port?.postMessage({ id: content.id, error: content.error, bytes }, bytes ? [bytes] : []);
  };
  addEventListener("message", heard);
  model.on("msg:custom", answered);
  frame.srcdoc = model.get("page");
  el.append(frame);
  return () => {
    removeEventListener("message", heard);
    model.off("msg:custom", answered);
    port?.close();
  };
}

export default { render };
