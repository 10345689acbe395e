// The page of a server: sends a video, and shows its classes, its timeline and its heat map.
"use strict";

const find = (id) => document.getElementById(id);
// Of the probabilities from 0 to 1, as in the pictures of `python -m vswin_jax.timeline`.
const SHADES = [[255, 255, 255], [188, 212, 236], [37, 99, 168], [11, 37, 69]];
const SEGMENT = "#c0392b";
const ROW = 28; // pixels

let model = null;
let file = null;
let timeline = null;
const running = new Map(); // by the name of the section

// Requests.

// The path of a request is also the id of the section of its result.
function send(path, options) {
  // XMLHttpRequest, because fetch does not tell how much of a body is sent.
  running.get(path)?.abort();
  const request = new XMLHttpRequest();
  running.set(path, request);
  const query = new URLSearchParams({ name: file.name, ...options });
  request.open("POST", `${path}?${query}`);
  request.responseType = "blob";
  show(path, "Sending the video");
  request.upload.onprogress = (event) => {
    const share = Math.floor((100 * event.loaded) / event.total);
    show(path, share < 100 ? `Sending the video, ${share} %` : "Computing");
  };
  return new Promise((resolve, reject) => {
    request.onabort = () => reject(new DOMException("", "AbortError"));
    request.onerror = () => reject(new Error("The server cannot be reached."));
    request.onload = async () => {
      if (request.status === 200) return resolve(request.response);
      const text = await request.response.text();
      reject(new Error(sentence(text) ?? `The server answers with ${request.status}.`));
    };
    request.send(file);
  });
}

function sentence(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return null;
  }
}

function show(section, text, isError = false) {
  const status = find(section).querySelector(".status");
  status.textContent = text;
  status.classList.toggle("error", isError);
}

async function run(path, options, draw) {
  find(path).hidden = false;
  const chosen = file;
  try {
    const result = await send(path, options);
    if (file !== chosen) return;
    show(path, "");
    await draw(result);
  } catch (error) {
    if (error.name !== "AbortError") show(path, error.message, true);
  }
}

const json = (draw) => async (blob) => draw(JSON.parse(await blob.text()));

// Classes.

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function drawClasses(prediction) {
  find("classes").replaceChildren(
    ...prediction.classes.map((name, index) => {
      const share = prediction.probabilities[index];
      const row = element("li");
      const bar = element("i");
      bar.style.width = `${100 * share}%`;
      row.append(bar, element("span", name), element("span", percent(share)));
      return row;
    }),
  );
}

// Timeline.

function clock(seconds) {
  // Tenths of a second matter in a short video.
  const tenths = timeline.duration < 120 ? Math.round(10 * seconds) : 10 * Math.round(seconds);
  const [hours, minutes] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60];
  const rest = (tenths % 600) / 10;
  const shown = (timeline.duration < 120 ? rest.toFixed(1) : String(rest)).replace(/^(\d)(?!\d)/, "0$1");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${shown}` : `${minutes}:${shown}`;
}

function drawTimeline(result) {
  timeline = result;
  if (result.error) show("timeline", `Up to ${clock(result.end)}: ${result.error}`, true);
  for (const id of ["chart", "scale", "rules"]) find(id).hidden = false;
  find("rows").replaceChildren(
    ...result.classes.map((name) => {
      const row = element("div", name);
      row.title = name;
      return row;
    }),
  );
  find("duration").textContent = clock(result.duration);
  find("canvas").setAttribute(
    "aria-label",
    `Probabilities of ${result.classes.join(", ")} over ${clock(result.duration)}`,
  );
  find("segments").replaceChildren(...result.segments.map(segmentRow));
  if (!result.segments.length) {
    find("segments").append(element("li", "No class reaches this probability anywhere."));
  }
  drawCanvas();
}

function segmentRow(segment) {
  const button = element("button");
  button.type = "button";
  button.append(
    element("span", `${clock(segment.start)} to ${clock(segment.end)}`),
    element("span", segment.class),
    element("span", percent(segment.score)),
  );
  button.onclick = () => seek(segment.start);
  const row = element("li");
  row.append(button);
  return row;
}

function drawCanvas() {
  if (!timeline) return;
  const canvas = find("canvas");
  const pen = canvas.getContext("2d");
  const scale = window.devicePixelRatio;
  const width = canvas.clientWidth;
  canvas.width = width * scale;
  canvas.height = ROW * timeline.classes.length * scale;
  pen.scale(scale, scale);
  const x = (seconds) => (width * seconds) / timeline.duration;
  const middles = timeline.windows.map((window) => (window.start + window.end) / 2);
  timeline.windows.forEach((window, index) => {
    // A window stands for the time that is nearest to its middle.
    const left = index ? (middles[index - 1] + middles[index]) / 2 : 0;
    const right = index + 1 < middles.length ? (middles[index] + middles[index + 1]) / 2 : timeline.end;
    window.probabilities.forEach((share, row) => {
      pen.fillStyle = shade(share);
      pen.fillRect(Math.floor(x(left)), row * ROW, Math.ceil(x(right)) - Math.floor(x(left)), ROW - 1);
    });
  });
  pen.fillStyle = SEGMENT;
  for (const segment of timeline.segments) {
    const row = timeline.classes.indexOf(segment.class);
    if (row >= 0) pen.fillRect(x(segment.start), (row + 1) * ROW - 4, x(segment.end) - x(segment.start), 3);
  }
  movePlayhead();
}

function shade(share) {
  const place = Math.min(Math.max(share, 0), 1) * (SHADES.length - 1);
  const low = Math.min(Math.floor(place), SHADES.length - 2);
  const mixed = SHADES[low].map((value, k) => value + (place - low) * (SHADES[low + 1][k] - value));
  return `rgb(${mixed.map(Math.round).join(" ")})`;
}

function seek(seconds) {
  find("video").currentTime = seconds;
  find("video").scrollIntoView({ block: "nearest" });
}

function movePlayhead() {
  if (timeline) find("playhead").style.left = `${(100 * find("video").currentTime) / timeline.duration}%`;
}

function runTimeline() {
  const threshold = find("rules").elements.threshold.value;
  return run("timeline", { threshold, topk: 8 }, json(drawTimeline));
}

// Heat map.

function runExplain() {
  const label = find("label").value;
  return run("explain", label ? { label } : {}, (blob) => {
    const picture = find("picture");
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(blob);
    picture.alt = "Frames of the clip, above the same frames with the map";
    picture.hidden = false;
  });
}

// The video.

async function open(chosen) {
  for (const request of running.values()) request.abort();
  file = chosen;
  timeline = null;
  for (const id of ["chart", "scale", "rules", "picture", "unplayable"]) find(id).hidden = true;
  for (const id of ["classes", "segments"]) find(id).replaceChildren();
  for (const id of ["timeline", "explain"]) find(id).hidden = true;
  find("label").value = "";
  const video = find("video");
  URL.revokeObjectURL(video.src);
  video.src = URL.createObjectURL(file);
  find("name").textContent = file.name;
  find("shown").hidden = false;
  if (model && file.size > model.max_bytes) {
    find("predict").hidden = false;
    return show("predict", `Expected at most ${model.max_bytes / 1e6} MB: choose a smaller video.`, true);
  }
  await run("predict", {}, json(drawClasses));
  if (file !== chosen || !find("classes").children.length) return;
  // One after the other: each sends the video, and the server keeps none.
  if (model?.sampling === "uniform") {
    find("timeline").hidden = false;
    show("timeline", "Clips of this model span a whole video: programs can give the seconds of a window.");
  } else {
    await runTimeline();
  }
  if (file === chosen) await runExplain();
}

async function describe() {
  try {
    model = await (await fetch("model")).json();
  } catch {
    find("model").textContent = "The server cannot be reached.";
    return;
  }
  const step = model.step === null ? "" : `, step ${model.step}`;
  find("model").textContent = `${model.model}, ${model.classes.length} classes${step}`;
  if (!model.is_trained) find("model").textContent += ". Its classifier is not trained: the classes mean nothing.";
  find("limits").textContent = `up to ${model.max_bytes / 1e6} MB`;
  const names = model.classes.map((name) => new Option(name, name));
  find("label").replaceChildren(new Option("the most probable one", ""), ...names);
}

find("file").onchange = (event) => {
  if (event.target.files.length) open(event.target.files[0]);
  // The same file may be chosen again.
  event.target.value = "";
};
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
}
find("video").onerror = () => { find("unplayable").hidden = false; };
find("video").ontimeupdate = movePlayhead;
find("plot").onclick = (event) => seek((timeline.duration * event.offsetX) / find("plot").clientWidth);
find("rules").onsubmit = (event) => {
  event.preventDefault();
  runTimeline();
};
find("label").onchange = runExplain;
new ResizeObserver(drawCanvas).observe(find("plot"));
describe();
