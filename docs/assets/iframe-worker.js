/* Search in pages that are opened from the disk: browsers refuse workers there, so the search runs
   in a hidden frame with a worker's interface. Elsewhere nothing is changed. */
(() => {
  if (location.protocol !== "file:") return;

  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.frame = frame;
      // What the script posts is an event of this object; what it imports is loaded at once.
      this.inner.fromOwner = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      const written = this.inner.document;
      written.open();
      written.write(
        `<script>postMessage = fromOwner;
         importScripts = (...urls) => urls.reduce((before, src) => before.then(() =>
           new Promise((done) => document.head.append(
             Object.assign(document.createElement("script"), { src, onload: done })))),
           Promise.resolve());</script><script src="${url}"></script>`
      );
      this.ready = new Promise((done) => (this.inner.onload = done));
      written.close();
    }

    postMessage(data) {
      this.ready.then(() =>
        this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data }))
      );
    }

    terminate() {
      this.frame.remove();
    }
  }
  window.Worker = FrameWorker;
})();
