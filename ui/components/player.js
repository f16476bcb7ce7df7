// needs: track.js, steering.js
// The player: one track fills the screen and has the browser's controls; several play in step under one transport.
const frame = element.querySelector(".screen");
const panes = element.querySelector(".panes");
const badge = element.querySelector(".badge");
const transport = element.querySelector(".transport");
const canvas = element.querySelector("canvas.difference");
const part = (name) => transport.querySelector(name);
const SEEK_S = 0.25; // above this drift, catching up by playback rate would take too long
const still = matchMedia("(prefers-reduced-motion: reduce)");

let run = null; // state of the run on the screen

// A browser's controls draw a spinner over every wait for a block, so they appear only on hover, focus or touch.
function controlsOnDemand(video) {
  for (const name of ["pointerenter", "focus", "touchstart"]) video.addEventListener(name, () => (video.controls = true));
  for (const name of ["pointerleave", "blur"]) video.addEventListener(name, () => (video.controls = false));
}

function begin(value) {
  if (run) run.tracks.forEach((track) => track.close());
  // In one column the screen is below the form.
  if (innerWidth < 900) element.scrollIntoView({ behavior: still.matches ? "auto" : "smooth", block: "start" });
  const mine = { id: value.run, fps: value.fps, playing: true, switching: false, done: false, tracks: [], other: 1, clock: 0 };
  panes.replaceChildren(...value.tracks.map((each, index) => {
    const pane = document.createElement("figure");
    pane.className = "pane";
    pane.dataset.name = each.name;
    pane.innerHTML = `<div class="holder"></div><figcaption><b class="side s${index}"></b><span class="said"></span><strong></strong>` +
      `<a class="download" hidden></a></figcaption>`;
    pane.querySelector("strong").title = props.words.revisit;
    pane.querySelector("b").textContent = value.tracks.length > 1 ? each.name : "";
    const link = pane.querySelector("a");
    link.textContent = props.download;
    link.setAttribute("aria-label", value.tracks.length > 1 ? `${props.download}, ${each.name}` : props.download);
    mine.tracks.push(new Track(pane, value.tracks.length === 1, (track) => advance(mine, track)));
    return pane;
  }));
  panes.dataset.count = value.tracks.length;
  transport.hidden = value.tracks.length < 2;
  const pick = part(".other");
  pick.replaceChildren(...value.tracks.slice(1).map((each, index) => new Option(each.name, index + 1)));
  pick.closest("label").hidden = value.tracks.length < 3;
  run = mine;
  setView(value.tracks.length > 1 ? view() : "beside");
  if (mine.tracks.length > 1) requestAnimationFrame(() => keepStep(mine));
}

// Returns the longest side; the others follow its clock.
function leader(mine) {
  return mine.tracks.reduce((best, track) => (reach(track) > reach(best) ? track : best));
}
const reach = (track) => track.planned || 0;

function advance(mine, track) {
  if (mine !== run) return;
  if (!track.switched && track.video && mine.tracks.length === 1) {
    if (!track.video.dataset.ours) {
      track.video.dataset.ours = 1;
      controlsOnDemand(track.video);
    }
    // Where blocks arrive slower than they play, plays slower: steady slow motion instead of stutter.
    if (track.ended) track.video.playbackRate = 1;
    else if (track.interval) track.video.playbackRate = pace(track.ahead(track.video.currentTime), track.interval);
  }
  if (mine.tracks.length > 1) difference(mine);
  finish(mine);
}

const pace = (ahead, interval) => Math.max(0.25, Math.min(1, ahead / interval));

// Switches to the finished files once all segments have been played.
async function finish(mine) {
  if (mine.switching || !mine.tracks.every((track) => track.ended)) return;
  const kept = mine.tracks.filter((track) => track.final);
  if (!kept.length) return;
  const seen = (track) => track.broken || !track.source || !track.video || track.video.ended;
  const lead = leader(mine);
  if (!seen(lead) && !(mine.tracks.length > 1 && lead.over(lead.video.currentTime))) return;
  mine.switching = true;
  const from = lead.broken && lead.video ? lead.video.currentTime : 0;
  const videos = await Promise.all(mine.tracks.map((track) => (track.final ? track.ready(mine.fps) : null)));
  if (mine !== run) return;
  mine.tracks.forEach((track, index) => {
    const video = videos[index];
    if (!video) return;
    video.loop = track === lead;
    video.controls = mine.tracks.length === 1;
    if (from) video.currentTime = from;
    track.show(video);
  });
  mine.done = true;
  label();
}

// With several tracks, the followers play at the leader's rate, corrected by their drift.
function keepStep(mine) {
  if (mine !== run) return;
  const lead = leader(mine), video = lead.video;
  if (video) {
    const time = video.currentTime;
    const others = mine.tracks.filter((track) => track !== lead && track.video);
    // Sides with more segments to come.
    const short = others.filter((track) => !track.switched && !track.broken && (!track.ended || track.waiting.length));
    const starved = short.some((track) => track.ahead(time) < 1.5 / mine.fps);
    const run_on = mine.playing && !starved;
    // A looping video that is stepped to its last frame would restart.
    if (mine.done) video.loop = mine.playing;
    if (run_on && video.paused && !video.ended) video.play().catch(() => {});
    if (!run_on && !video.paused) video.pause();
    const live = mine.tracks.filter((track) => !track.ended && track.interval);
    const rate = live.length ? Math.min(...live.map((track) => pace(track.ahead(time), track.interval))) : 1;
    video.playbackRate = rate;
    const moving = !video.paused && video.readyState > 2 && !video.seeking;
    // After a seek or a restart of the leader, all sides seek there.
    const sought = video.seeking || time < mine.clock - 1 / mine.fps;
    mine.clock = time;
    for (const track of others) {
      track.astray ||= sought;
      follow(track, time, rate, moving, mine.playing);
    }
    showTime(mine, video, time);
  }
  requestAnimationFrame(() => keepStep(mine));
}

// Shows the position. Redrawn only with a new frame, because drawing takes time from the generator.
function showTime(mine, video, time) {
  const end = Math.max(...mine.tracks.map((track) => reach(track)), 1 / mine.fps);
  const max = mine.done && Number.isFinite(video.duration) ? video.duration : end;
  const state = [Math.floor(time * mine.fps + 0.01), max, mine.playing].join();
  if (state === mine.shownState) return;
  mine.shownState = state;
  const bar = part(".seek");
  bar.max = max;
  if (document.activeElement !== bar || mine.playing) bar.value = time;
  bar.setAttribute("aria-valuetext", `${time.toFixed(1)} seconds`);
  part(".time").textContent = `${time.toFixed(1)} / ${Number(bar.max).toFixed(1)} s`;
  part(".toggle").setAttribute("aria-label", mine.playing ? "Pause" : "Play");
  part(".toggle").dataset.playing = mine.playing;
}

function follow(track, time, rate, moving, playing) {
  const video = track.video;
  const end = track.switched ? video.duration : time + track.ahead(time);
  const target = Math.min(time, Math.max(0, end - 0.001));
  const drift = video.currentTime - target;
  const held = target < time; // this side ended before the leader
  if (Math.abs(drift) < SEEK_S) track.astray = false;
  // A side that ran ahead, as on a busy machine, waits for the leader instead of seeking back.
  const waits = playing && !track.astray && drift > 0;
  if (moving && !held && !(waits && drift > SEEK_S)) {
    if (Math.abs(drift) > SEEK_S && !video.seeking) video.currentTime = target;
    video.playbackRate = Math.max(0.1, Math.min(4, rate * (1 - 2 * drift)));
    if (video.paused) video.play().catch(() => {});
  } else {
    if (!video.paused) video.pause();
    if (!waits && Math.abs(drift) > 0.004 && !video.seeking) video.currentTime = target;
  }
}

// Returns the number of the frame at a time; at the very end the last one.
function frameAt(video, time) {
  const last = Number.isFinite(video.duration) ? Math.round(video.duration * run.fps) - 1 : Infinity;
  return Math.max(0, Math.min(last, Math.floor(time * run.fps + 0.01)));
}

function seek(time, by = 0) {
  const video = run && leader(run).video;
  if (!video) return;
  // To the middle of a frame, so that every side shows the same one.
  const number = frameAt(video, (frameAt(video, time) + by + 0.5) / run.fps);
  video.currentTime = (number + 0.5) / run.fps;
}

function toggle(playing) {
  if (run) run.playing = playing === undefined ? !run.playing : playing;
}

function step(by) {
  if (!run) return;
  const video = leader(run).video;
  toggle(false);
  if (video) seek(video.currentTime, by);
}

// The two sides compared: the first and one other.
const view = () => transport.querySelector("input[name=view]:checked").value;
const pair = (mine) => [mine.tracks[0], mine.tracks[mine.other] || mine.tracks[0]];

function setView(name) {
  frame.dataset.view = name;
  part(".wipe").closest("label").hidden = name !== "wipe";
  part(".gain").closest("label").hidden = name !== "difference";
  if (!run) return;
  const [first, other] = pair(run);
  for (const track of run.tracks) {
    track.pane.classList.toggle("first", track === first);
    track.pane.classList.toggle("other", track === other && track !== first);
  }
  difference(run);
}

function wipeTo(share) {
  frame.style.setProperty("--wipe", `${(100 * share).toFixed(2)}%`);
  part(".wipe").value = share;
}

// Draws the difference, only while both sides show the same frame.
function difference(mine) {
  if (frame.dataset.view !== "difference" || mine !== run) return;
  const [first, other] = pair(mine);
  if (!first.video || !other.video || first.shown !== other.shown || first.shown < 0) return;
  const { videoWidth: width, videoHeight: height } = first.video;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.globalCompositeOperation = "copy";
  pen.drawImage(first.video, 0, 0);
  pen.globalCompositeOperation = "difference";
  pen.drawImage(other.video, 0, 0);
  canvas.dataset.frame = first.shown;
}

function label() {
  const value = props.value;
  if (!run) return;
  const playing = run.tracks.some((track) => track.video);
  const none = value.ended && !value.tracks.some((each) => each.final);
  frame.dataset.state = run.done ? "final" : playing ? "live" : none ? "empty" : "waiting";
  badge.textContent = playing && !value.ended && !run.done ? "live" : "";
}

function show() {
  const value = props.value;
  if (!value) return;
  element.style.setProperty("--ratio", value.ratio);
  if (!value.run) return;
  if (!run || run.id !== value.run) begin(value);
  value.tracks.forEach((each, index) => {
    const track = run.tracks[index];
    track.planned = each.planned;
    track.take(each, value);
    track.pane.querySelector(".said").textContent = each.note;
    track.pane.querySelector("strong").textContent = each.figure;
    const link = track.pane.querySelector("a.download");
    if (each.final && link.hidden) {
      link.href = at(each.final);
      link.download = `${each.file}.mp4`;
      link.hidden = false;
    }
  });
  finish(run);
  label();
  drive();
}

transport.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.step) step(Number(button.dataset.step));
  else toggle();
});
transport.addEventListener("input", (event) => {
  const field = event.target;
  if (field.matches(".seek")) seek(Number(field.value));
  if (field.matches(".wipe")) wipeTo(Number(field.value));
  if (field.matches(".gain")) canvas.style.filter = `brightness(${field.value})`;
  if (field.matches(".other") && run) { run.other = Number(field.value); setView(view()); }
  if (field.name === "view") setView(field.value);
});
part(".seek").addEventListener("pointerdown", () => { if (run) { run.resume = run.playing; toggle(false); } });
part(".seek").addEventListener("pointerup", () => { if (run) toggle(run.resume); });

// The wipe can be dragged on the picture, by mouse and by touch.
let dragging = false;
function dragTo(event) {
  const box = panes.getBoundingClientRect();
  wipeTo(Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)));
}
panes.addEventListener("pointerdown", (event) => {
  if (frame.dataset.view !== "wipe" || event.target.closest("a")) return;
  dragging = true;
  panes.setPointerCapture(event.pointerId);
  dragTo(event);
});
panes.addEventListener("pointermove", (event) => { if (dragging) dragTo(event); });
for (const name of ["pointerup", "pointercancel"]) panes.addEventListener(name, () => (dragging = false));

transport.addEventListener("keydown", (event) => {
  if (event.key === "," || event.key === ".") step(event.key === "." ? 1 : -1);
});

wipeTo(0.5);
canvas.style.filter = `brightness(${part(".gain").value})`;
watch("value", show);
show();
