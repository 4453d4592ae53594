"use strict";
// The page of `kernelfit serve`: pictures go to the server that it came from, and nowhere else.

const at = (selector, within = document) => within.querySelector(selector);
const limit = Number(at("meta[name=limit]").content);
const files = { image: null, target: null };
const shown = { id: null };
const states = { uploading: "sending the files", waiting: "waiting", cancelled: "cancelled", failed: "not found" };
const labels = { "kernel.npz": "Kernel, whole result (NPZ)", "kernel.npy": "Kernel (NPY)", "kernel.csv": "Kernel (CSV)",
                 "kernel.json": "Kernel (JSON)", "kernel.png": "Picture of the kernel (PNG)" };
const formats = Object.keys(labels);
let mine = null; // the job whose report is shown as soon as it is there
let known = "";
let polling = false;

function size(bytes) {
  return bytes < 1e4 ? `${bytes} bytes` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function say(problem) {
  at("#problem").textContent = problem;
  at("#problem").hidden = !problem;
}

function take(side, file) {
  const zone = at(`.drop[data-side=${side}]`), picture = at("img", zone);
  if (file && file.size > limit) {
    say(`${file.name}: got ${size(file.size)}, need at most ${size(limit)}. Cut a part out of it, or use kernelfit find.`);
    file = null;
  }
  files[side] = file;
  zone.classList.toggle("full", Boolean(file));
  at(".name", zone).textContent = file ? `${file.name}, ${size(file.size)}` : "Drop a file here, or choose one.";
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.hidden = true;
  picture.removeAttribute("src");
  if (file) {
    picture.onload = () => { picture.hidden = false; };
    picture.src = URL.createObjectURL(file); // what the browser cannot show stays hidden
  }
  const held = new DataTransfer(); // so that the field itself tells of what was dropped
  if (file) held.items.add(file);
  at("input", zone).files = held.files;
}

for (const zone of document.querySelectorAll(".drop")) {
  const side = zone.dataset.side, input = at("input", zone);
  input.addEventListener("change", () => { say(""); take(side, input.files[0] || null); });
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    zone.classList.remove("over");
    say("");
    const dropped = [...event.dataTransfer.files];
    if (dropped.length === 2) {
      take("image", dropped[0]);
      take("target", dropped[1]);
    } else if (dropped.length === 1) {
      take(side, dropped[0]);
    } else {
      say(`Got ${dropped.length} files, need one, or image and target together.`);
    }
  });
}
for (const input of document.querySelectorAll(".drop input")) take(input.id, input.files[0] || null); // after a reload
for (const name of ["dragover", "drop"]) { // beside a zone a file would replace the page
  window.addEventListener(name, (event) => event.preventDefault());
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is kernelfit serve still running?");
  }
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

at("#ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  say("");
  const chosen = { ...files };
  if (!chosen.image || !chosen.target) { say("Need two files: an image and its target."); return; }
  const fields = {};
  for (const field of at("#ask").querySelectorAll("[name]")) if (field.value.trim()) fields[field.name] = field.value.trim();
  const button = at("button.main");
  button.disabled = true;
  try {
    const names = { image: chosen.image.name, target: chosen.target.name };
    const made = await ask("jobs", { method: "POST", headers: { "Content-Type": "application/json" },
                                     body: JSON.stringify({ names, fields }) });
    mine = made.id;
    poll();
    for (const side of ["image", "target"]) await ask(`jobs/${made.id}/${side}`, { method: "PUT", body: chosen[side] });
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
    poll();
  }
});

function wordsOf(job) {
  if (job.state === "running") return `${job.text || "starting"}${job.share === null ? "" : `, ${Math.round(100 * job.share)} %`}`;
  if (job.state !== "done") return states[job.state];
  const verdict = job.answer.verdict, seconds = job.answer.seconds;
  const name = verdict.name.toLowerCase().replaceAll("_", " ");
  return `${verdict.ok ? "solved" : `doubtful: ${name}`}, ${seconds < 1 ? "less than a second" : `${seconds.toFixed(1)} s`}`;
}

function draw(jobs) {
  const list = at("#jobs");
  at("#jobs-section").hidden = jobs.length === 0;
  const ids = new Set(jobs.map((job) => job.id));
  for (const item of [...list.children]) if (!ids.has(item.dataset.id)) item.remove();
  for (const job of jobs) {
    let item = [...list.children].find((one) => one.dataset.id === job.id);
    if (!item) {
      item = at("#job").content.firstElementChild.cloneNode(true);
      item.dataset.id = job.id;
      const label = (name) => at(`#ask [name=${name}]`).closest("label").firstChild.textContent.trim();
      const set = Object.entries(job.fields).map(([name, value]) => `${label(name)}: ${value}`).join(", ");
      at(".what", item).textContent = `${job.names.image} to ${job.names.target}${set ? ` (${set})` : ""}`;
      at(".show", item).setAttribute("aria-label", `Show the report of ${job.names.image} to ${job.names.target}`);
      at(".cancel", item).setAttribute("aria-label", `Cancel ${job.names.image} to ${job.names.target}`);
      at(".show", item).addEventListener("click", () => show(job.id));
      at(".cancel", item).addEventListener("click", () => ask(`jobs/${job.id}/cancel`, { method: "POST" })
        .then(poll, (error) => say(error.message)));
      list.prepend(item); // the newest first
    }
    const active = ["uploading", "waiting", "running"].includes(job.state), bar = at("progress", item);
    item.className = job.state === "done" ? (job.answer.verdict.ok ? "good" : "doubt") : job.state;
    item.classList.toggle("shown", job.id === shown.id);
    at(".state", item).textContent = wordsOf(job);
    bar.hidden = !active;
    bar.setAttribute("aria-label", "progress");
    if (job.share === null) bar.removeAttribute("value"); else bar.value = job.share;
    at(".error", item).textContent = job.answer.error || "";
    at(".error", item).hidden = !job.answer.error;
    at(".show", item).hidden = job.state !== "done";
    at(".cancel", item).hidden = !active;
    item.job = job;
    if (job.id === mine && !active) {
      mine = null;
      at("#status").textContent = `${at(".what", item).textContent}: ${wordsOf(job)}. ${job.answer.error || ""}`;
      if (job.state === "done") show(job.id);
    }
  }
}

function show(id) {
  const item = [...at("#jobs").children].find((one) => one.dataset.id === id), job = item.job, links = at("#links");
  for (const other of at("#jobs").children) other.classList.toggle("shown", other === item);
  shown.id = id;
  at("#report-title").textContent = `From ${job.names.image} to ${job.names.target}`;
  links.textContent = "";
  const link = (text, href, more) => {
    const made = document.createElement("a");
    Object.assign(made, { textContent: text, href, ...more });
    links.append(made);
  };
  const folder = `jobs/${id}/`;
  link("Save the report", `${folder}report.html/save`, { download: "report.html" });
  for (const name of formats.filter((one) => job.answer.files.includes(one))) link(labels[name], `${folder}${name}/save`, { download: name });
  const frame = at("#report");
  frame.onload = () => { fit(frame); };
  frame.src = `${folder}report.html`;
  at("#report-section").hidden = false;
  at("#report-title").focus();
}

function fit(frame) { // as high as what is in it, so that nothing scrolls inside
  const inner = frame.contentDocument && frame.contentDocument.documentElement;
  if (!inner || !frame.contentDocument.body || !frame.contentDocument.body.childElementCount) return;
  frame.style.height = "10px";
  frame.style.height = `${inner.scrollHeight + 4}px`;
}
let wait = 0;
window.addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(() => fit(at("#report")), 150); });

async function poll() {
  if (polling) return;
  polling = true;
  try {
    for (;;) {
      const jobs = await ask("jobs"), text = JSON.stringify(jobs);
      if (text !== known) { known = text; draw(jobs); }
      if (!jobs.some((job) => ["uploading", "waiting", "running"].includes(job.state))) break;
      await new Promise((go) => setTimeout(go, 300));
    }
  } catch (error) {
    say(error.message);
  } finally {
    polling = false;
  }
}

window.addEventListener("focus", poll); // another tab may have asked for something
poll();
