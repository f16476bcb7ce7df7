// One side of a run: appends segments to one source buffer, in order, without a restart; then plays the finished
// file.
const root = ((window.gradio_config || {}).root || "").replace(/\/$/, "");
const at = (url) => (url.startsWith("data:") ? url : root + url);
const Source = window.ManagedMediaSource || window.MediaSource;

class Track {
  // `pane` contains the video; `changed` is called when there is more to play, or no more to come. One of several
  // is played by the player, in step: a video that ran ahead by itself would have to be paused, and a browser then
  // shows an earlier frame again.
  constructor(pane, alone, changed) {
    this.pane = pane;
    this.alone = alone;
    this.changed = changed;
    this.taken = 0;
    this.chain = Promise.resolve();
    this.waiting = [];
    this.video = this.source = this.buffer = this.objectUrl = null;
    this.final = null; // address of the finished file
    this.ended = this.broken = this.switched = this.closed = false;
    this.interval = this.last = 0; // seconds between blocks
    this.shown = -1; // number of the frame on the screen
  }

  makeVideo(fps) {
    const video = document.createElement("video");
    Object.assign(video, { autoplay: this.alone, preload: "auto", muted: true, playsInline: true, tabIndex: 0 });
    video.disableRemotePlayback = true;
    video.setAttribute("aria-label", `Generated video ${this.pane.dataset.name || ""}`.trim());
    if (video.requestVideoFrameCallback) {
      const note = (_, frame) => {
        this.shown = Math.round(frame.mediaTime * fps);
        this.changed(this);
        video.requestVideoFrameCallback(note);
      };
      video.requestVideoFrameCallback(note);
    }
    return video;
  }

  take(value, run) {
    const segments = value.segments || [];
    if (segments.length) this.open(value, run);
    while (this.taken < segments.length) {
      const url = at(segments[this.taken++]);
      this.chain = this.chain.then(async () => {
        if (this.closed || this.broken) return;
        try {
          const response = await fetch(url);
          if (!response.ok) throw new Error(response.statusText);
          const bytes = await response.arrayBuffer();
          this.arrived();
          this.waiting.push(bytes);
          this.pump();
        } catch (error) {
          this.broken = true; // the finished file will be played instead
        }
      });
    }
    if (value.ended && !this.ended) {
      this.chain = this.chain.then(() => {
        if (this.closed) return;
        this.ended = true;
        this.pump();
        this.changed(this);
      });
    }
    this.final = value.final;
  }

  open(value, run) {
    if (this.source || this.broken) return;
    if (!Source || !Source.isTypeSupported(value.mime)) {
      this.broken = true;
      return;
    }
    this.video = this.makeVideo(run.fps);
    this.start = run.start;
    this.source = new Source();
    this.objectUrl = URL.createObjectURL(this.source);
    this.source.addEventListener("sourceopen", () => {
      this.buffer = this.source.addSourceBuffer(value.mime);
      this.buffer.mode = "sequence";
      // The planned duration, so that the bar shows the finished share.
      if (value.planned) this.source.duration = value.planned;
      this.buffer.addEventListener("updateend", () => { this.begin(); this.changed(this); this.pump(); });
      this.pump();
    }, { once: true });
    this.video.addEventListener("ended", () => this.changed(this));
    this.video.src = this.objectUrl;
    this.pane.querySelector(".holder").replaceChildren(this.video);
  }

  // An extended video starts shortly before its new part.
  begin() {
    if (!this.start || this.ahead(this.start) <= 0) return;
    this.video.currentTime = this.start;
    this.start = 0;
  }

  pump() {
    if (this.closed || !this.buffer || this.buffer.updating || this.source.readyState === "closed") return;
    if (this.waiting.length) {
      try {
        this.buffer.appendBuffer(this.waiting[0]);
        this.waiting.shift();
      } catch (error) {
        const oldest = this.video.currentTime - 20;
        if (error.name === "QuotaExceededError" && oldest > 0) this.buffer.remove(0, oldest);
        else setTimeout(() => this.pump(), 500);
      }
    } else if (this.ended && this.source.readyState === "open") {
      this.source.endOfStream();
    }
  }

  arrived() {
    const now = performance.now() / 1000;
    if (this.last) {
      const gap = now - this.last;
      this.interval = this.interval ? 0.7 * this.interval + 0.3 * gap : gap;
    }
    this.last = now;
  }

  // Returns the seconds of buffered video after `time`.
  ahead(time) {
    if (!this.video) return 0;
    const ranges = this.video.buffered;
    return ranges.length ? ranges.end(ranges.length - 1) - time : 0;
  }

  // Returns whether this side has played everything; a side that stopped early stays on its last frame.
  over(time) {
    return this.ended && !this.waiting.length && this.ahead(time) < 0.02;
  }

  // Resolves with the finished file's video once it has a picture, so that nothing flashes.
  ready(fps) {
    const video = this.makeVideo(fps);
    return new Promise((resolve) => {
      video.addEventListener("loadeddata", () => resolve(video), { once: true });
      video.addEventListener("error", () => resolve(null), { once: true });
      video.src = at(this.final);
    });
  }

  show(video) {
    this.switched = true;
    this.video = video;
    this.pane.querySelector(".holder").replaceChildren(video);
    if (this.objectUrl) URL.revokeObjectURL(this.objectUrl);
    this.objectUrl = this.source = this.buffer = null;
  }

  close() {
    this.closed = true;
    if (this.objectUrl) URL.revokeObjectURL(this.objectUrl);
  }
}
