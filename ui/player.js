// Appends segments to one source buffer, in order, without ever restarting; then hands over to the finished file.
const root = ((window.gradio_config || {}).root || "").replace(/\/$/, "");
const at = (url) => (url.startsWith("data:") ? url : root + url);
const frame = element.querySelector(".screen");
const holder = element.querySelector(".videos");
const download = element.querySelector("a.download");
const badge = element.querySelector(".badge");
const Source = window.ManagedMediaSource || window.MediaSource;

let run = null; // everything that belongs to the run on show

function makeVideo() {
  const video = document.createElement("video");
  Object.assign(video, { autoplay: true, muted: true, playsInline: true, disableRemotePlayback: true, tabIndex: 0 });
  video.setAttribute("aria-label", "Generated video");
  return video;
}

// A browser's controls draw a spinner over every wait for a block: only there while someone reaches for them.
function controlsOnDemand(video) {
  for (const name of ["pointerenter", "focus", "touchstart"]) video.addEventListener(name, () => (video.controls = true));
  for (const name of ["pointerleave", "blur"]) video.addEventListener(name, () => (video.controls = false));
}

function begin(value) {
  if (run && run.objectUrl) URL.revokeObjectURL(run.objectUrl);
  holder.replaceChildren();
  download.hidden = true;
  // In one column the screen is below the form.
  if (innerWidth < 900) element.scrollIntoView({ behavior: "smooth", block: "start" });
  run = {
    id: value.run, taken: 0, chain: Promise.resolve(), waiting: [], buffer: null, source: null, video: null,
    ended: false, final: null, interval: 0, last: 0, broken: false, switched: false, objectUrl: null,
  };
}

function open(value) {
  const mine = run;
  if (mine.source || mine.broken) return;
  if (!Source || !Source.isTypeSupported(`video/mp4; codecs="${value.codec}"`)) {
    mine.broken = true;
    return;
  }
  mine.video = makeVideo();
  controlsOnDemand(mine.video);
  mine.video.addEventListener("ended", () => finish(mine));
  mine.source = new Source();
  mine.objectUrl = URL.createObjectURL(mine.source);
  mine.source.addEventListener("sourceopen", () => {
    mine.buffer = mine.source.addSourceBuffer(`video/mp4; codecs="${value.codec}"`);
    mine.buffer.mode = "sequence";
    // Known beforehand, so that the bar shows how much of the whole is there.
    if (value.planned) mine.source.duration = value.planned;
    mine.buffer.addEventListener("updateend", () => { pace(mine); pump(mine); });
    pump(mine);
  }, { once: true });
  mine.video.src = mine.objectUrl;
  holder.replaceChildren(mine.video);
}

function pump(mine) {
  if (mine !== run || !mine.buffer || mine.buffer.updating || mine.source.readyState === "closed") return;
  if (mine.waiting.length) {
    try {
      mine.buffer.appendBuffer(mine.waiting[0]);
      mine.waiting.shift();
    } catch (error) {
      const oldest = mine.video.currentTime - 20;
      if (error.name === "QuotaExceededError" && oldest > 0) mine.buffer.remove(0, oldest);
      else setTimeout(() => pump(mine), 500);
    }
  } else if (mine.ended && mine.source.readyState === "open") {
    mine.source.endOfStream();
    mine.video.playbackRate = 1;
  }
}

function ahead(mine) {
  const ranges = mine.video.buffered;
  return ranges.length ? ranges.end(ranges.length - 1) - mine.video.currentTime : 0;
}

// Where blocks come slower than they play, play slower: steady slow motion instead of stop and go.
function pace(mine) {
  if (!mine.interval || mine.ended) return;
  mine.video.playbackRate = Math.max(0.25, Math.min(1, ahead(mine) / mine.interval));
}

function arrived(mine) {
  const now = performance.now() / 1000;
  if (mine.last) {
    const gap = now - mine.last;
    mine.interval = mine.interval ? 0.7 * mine.interval + 0.3 * gap : gap;
  }
  mine.last = now;
}

function finish(mine) {
  if (mine !== run || mine.switched || !mine.final) return;
  mine.switched = true;
  const video = makeVideo();
  video.loop = video.controls = true;
  const from = mine.broken && mine.video ? mine.video.currentTime : 0;
  // Shown once it has a picture, so that nothing flashes.
  video.addEventListener("loadeddata", () => {
    if (mine !== run) return;
    if (from) video.currentTime = from;
    holder.replaceChildren(video);
    if (mine.objectUrl) URL.revokeObjectURL(mine.objectUrl);
    frame.dataset.state = "final";
    badge.textContent = "";
  }, { once: true });
  video.src = at(mine.final);
}

function take(value) {
  const mine = run;
  const segments = value.segments || [];
  if (segments.length) open(value);
  while (mine.taken < segments.length) {
    const url = at(segments[mine.taken++]);
    mine.chain = mine.chain.then(async () => {
      if (mine !== run || mine.broken) return;
      try {
        const response = await fetch(url);
        if (!response.ok) throw new Error(response.statusText);
        const bytes = await response.arrayBuffer();
        if (mine !== run) return;
        arrived(mine);
        mine.waiting.push(bytes);
        pump(mine);
      } catch (error) {
        mine.broken = true; // the finished file has it all
      }
    });
  }
  if (value.ended && !mine.ended) {
    mine.chain = mine.chain.then(() => {
      if (mine !== run) return;
      mine.ended = true;
      mine.final = value.final;
      if (value.final) {
        download.href = at(value.final);
        download.download = value.name;
        download.hidden = false;
      }
      if (mine.broken || !mine.source || (mine.video && mine.video.ended)) finish(mine);
      else pump(mine);
    });
  }
}

function show() {
  const value = props.value;
  if (!value) return;
  element.style.setProperty("--ratio", value.ratio);
  if (!value.run) return;
  if (!run || run.id !== value.run) begin(value);
  take(value);
  const playing = run.video !== null;
  frame.dataset.state = run.switched ? "final" : playing ? "live" : value.ended && !value.final ? "empty" : "waiting";
  badge.textContent = playing && !value.ended ? "live" : "";
}

watch("value", show);
show();
