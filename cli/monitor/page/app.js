// The page of the monitor. All text from the home is set as text, never as HTML.

import {$, SignIn, TOKEN, axes, clock, color, confirmed, duration, element, facts, figure, fillTable, get, line, moment, number, post, replace, say, send, size} from "./common.js";
import {showEvaluation} from "./evaluation.js";
import {followMachine, redrawMachine, showCost, showMachine} from "./machine.js";
import {showModels} from "./models.js";
import {makeCorrection} from "./correction.js";
import {makeSamples} from "./samples.js";

const CHARTS = [
  {name: "loss", title: "Loss (nats per trained token)", smooth: true},
  {name: "learning_rate", title: "Learning rate"},
  {name: "grad_norm", title: "Gradient norm"},
  {name: "tokens_per_s", title: "Speed (tokens per second)"},
];
const JOURNAL_SHOWN = 200;
const FAILURES_SHOWN = 3;
const REFRESH_MS = 1000; // Charts and tables follow the stream at most this often.
const SMOOTHING = 0.9;

// -- actions

async function act(action, body, question) {
  if (question && !await confirmed(question)) return;
  try {
    say((await post(`/api/actions/${action}`, body)).done);
  } catch (error) {
    say(error.message);
  }
  refreshTables();
}

// -- now

// In a few words; the line below says why and what to do.
function stateOf({alive, hold, full, short, daemon}) {
  const waits = hold ? "waiting for you" : full ? "waiting for disk space" : short ? "waiting for memory" : "";
  if (!alive) return ["off", "off_paused"].includes(daemon.status) ? `not running${daemon.status === "off_paused" ? ", paused" : ""}${waits && `, ${waits}`}` : "died";
  const paused = daemon.status === "paused" ? "paused" : "";
  return [paused, waits].filter(Boolean).join(", ") || daemon.status;
}

function showStatus(status) {
  const {job, queue, daemon} = status;
  const tone = !status.alive ? (["off", "off_paused"].includes(daemon.status) ? "" : "bad") : status.hold || status.full || status.short || status.config_error ? "warn" : daemon.status === "working" ? "good" : "";
  $("state").textContent = stateOf(status);
  $("state").dataset.tone = tone;
  if ($("health").textContent !== status.health) $("health").textContent = status.health; // A screen reader reads each change once.
  document.title = `${job ? `${Math.round(job.progress * 100)} % · ` : ""}keepstep`;
  const {since, file_done_at, all_done_at} = status.timing;
  $("times").textContent = [since && `since ${moment(since)}`, file_done_at && `this file ends about ${moment(file_done_at)}`, all_done_at && all_done_at !== file_done_at && `all files end about ${moment(all_done_at)}`].filter(Boolean).join(" · ");
  $("file-progress").value = job?.progress ?? 0;
  $("file-text").textContent = job ? `${job.name}: step ${job.step} of ${job.steps_total ?? "?"}${job.eta_s ? `, ${duration(job.eta_s)} left` : ""}` : "no file";
  $("queue-progress").value = queue.progress;
  $("queue-text").textContent = `${queue.waiting} waiting${queue.held ? `, ${queue.held} held` : ""}${queue.eta_s ? `, ${duration(queue.eta_s)} left` : ""}`;
  const {validation, watching} = status;
  facts("numbers", [
    ["Committed step", number(status.global_step)],
    ["Loss", job && number(job.loss)],
    ["Learning rate", job && number(job.learning_rate)],
    ["Speed", job?.tokens_per_s && `${Math.round(job.tokens_per_s)} tokens/s`],
    ["Validation loss", validation && `${number(validation.loss)}${validation.gap === null ? "" : ` (gap ${number(validation.gap)})`}${validation.concern ? `: ${validation.concern}` : ""}`],
    ["Base", status.version ? status.version.id : "the first model"],
    ["Checkpoint", status.checkpoint?.id],
    ["Files", `${status.counts.trained} trained, ${status.counts.rejected} rejected, ${status.counts.skipped} skipped`],
  ]);
  replace("troubles", ...status.troubles.slice(-3).map((each) => element("li", {textContent: `${moment(each.at)} ${each.message}`})));
  const failing = Object.entries(status.failing_reports).map(([name, error]) => element("li", {textContent: `report to ${name} fails: ${error}`}));
  $("troubles").append(...failing);
  showMachine(status.machine);
  showCost(watching);
  followMachine();
}

// -- charts

const plots = new Map();

function smoothed(values) {
  let mean = 0, weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = SMOOTHING * mean + (1 - SMOOTHING) * value;
    weight = SMOOTHING * weight + (1 - SMOOTHING);
    return mean / weight; // As Adam corrects its moments: the first values are not drawn to zero.
  });
}

function chartData(chart, shown) {
  const buckets = shown.series[chart.name];
  const at = (index) => buckets.map((bucket) => bucket[index]);
  const data = [shown.steps, at(0), at(1), at(2)];
  if (chart.smooth) {
    data.push(smoothed(data[3]));
    const evaluations = new Map(shown.evaluations.map((each) => [each.global_step, each.loss]));
    const steps = [...new Set([...shown.steps, ...evaluations.keys()])].sort((a, b) => a - b);
    const index = new Map(shown.steps.map((step, place) => [step, place]));
    return [steps, ...data.slice(1).map((values) => steps.map((step) => index.has(step) ? values[index.get(step)] : undefined)), steps.map((step) => evaluations.has(step) ? evaluations.get(step) : undefined)];
  }
  return data;
}

function options(chart, width) {
  const faint = {width: 0};
  const series = [{label: "step"}, line("lowest", color("--line"), faint), line("highest", color("--line"), faint), line("mean", color("--blue"), {width: chart.smooth ? 1 : 1.5, alpha: chart.smooth ? 0.5 : 1})];
  if (chart.smooth) series.push(line("smoothed", color("--orange"), {width: 2}), line("validation", color("--green"), {width: 2, spanGaps: true, points: {show: true, size: 6}}));
  return {
    width, height: 220, series, scales: {x: {time: false}},
    bands: [{series: [2, 1], fill: `${color("--blue")}22`}],
    axes: axes(),
    hooks: {setSelect: [(plot) => {
      if (plot.select.width > 4) loadChart(Math.round(plot.posToVal(plot.select.left, "x")), Math.round(plot.posToVal(plot.select.left + plot.select.width, "x")));
    }]},
    cursor: {drag: {setScale: false}, sync: {key: "steps"}},
  };
}

function drawCharts(shown) {
  for (const chart of CHARTS) {
    const data = chartData(chart, shown);
    const old = plots.get(chart.name);
    if (old) old.plot.setData(data);
    else {
      const {place, table} = figure($("charts"), chart.title);
      plots.set(chart.name, {plot: new uPlot(options(chart, Math.max(240, place.clientWidth)), data, place), place, table});
    }
    const {table} = plots.get(chart.name);
    if (table.parentElement.parentElement.open || !table.rows.length) fillTable(table, ["Step", "Lowest", "Highest", "Mean"], shown.steps.map((step, place) => [step, ...shown.series[chart.name][place]]).reverse().slice(0, 200));
  }
  const notes = [shown.last === null ? "no step was trained yet" : `steps ${number(shown.steps[0] ?? 0)} to ${number(shown.steps.at(-1) ?? 0)}`];
  if (shown.not_numbers) notes.push(`${shown.not_numbers} without a loss (skipped batches), drawn as gaps`);
  if (view.first !== null) notes.push("drag to zoom in, choose “all” to zoom out");
  $("chart-note").textContent = notes.join("; ");
}

const view = {first: null, last: null};

async function loadChart(first = view.first, last = view.last) {
  view.first = first;
  view.last = last;
  const shown = await fetchChart(first, last);
  drawCharts(shown);
  return shown;
}

function fetchChart(first, last) {
  const query = new URLSearchParams({points: Math.min(2000, Math.max(200, $("charts").clientWidth))});
  if (first !== null) query.set("from", first);
  if (last !== null) query.set("to", last);
  return get(`/api/metrics?${query}`);
}

$("range").addEventListener("change", async () => {
  const wanted = Number($("range").value);
  const {last} = wanted ? await get("/api/metrics?points=1") : {last: null};
  loadChart(wanted && last !== null ? Math.max(1, last - wanted + 1) : null, null);
});

new ResizeObserver(() => {
  for (const {plot, place} of plots.values()) if (place.clientWidth) plot.setSize({width: place.clientWidth, height: 220});
}).observe($("charts"));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  plots.clear();
  replace("charts");
  loadChart();
  redrawMachine();
});

// -- tables

function jobButtons(job) {
  const name = job.name;
  const button = (label, action, body = {}, question = null) => {
    const made = element("button", {textContent: label, title: `${label}: ${name}`});
    made.addEventListener("click", () => act(action, {job: job.id, ...body}, question));
    return made;
  };
  if (job.position === 0) return [button("Skip", "skip", {}, `End ${name}? What it trained and committed stays in the weights.`)];
  if (job.position === null) return [button("Retry", "retry")];
  const priorities = ["high", "normal", "low"].filter((each) => each !== job.priority);
  return [
    button("First", "move", {first: true}),
    ...priorities.map((each) => button(each[0].toUpperCase() + each.slice(1), "move", {priority: each})),
    job.held ? button("Release", "release") : button("Hold", "hold"),
    button("Remove", "remove", {}, `Remove ${name} from the queue? Its file moves to rejected/.`),
  ];
}

async function showQueue() {
  const {jobs, total} = await get("/api/queue");
  const place = (job) => job.position === 0 ? "now" : job.position ?? "";
  fillTable($("queue"), ["", "File", "Status", "Priority", "Size", ""], jobs.map((job) => [place(job), job.name, job.status, job.priority, size(job.size_bytes), element("span", {}, ...jobButtons(job))]));
  if (!jobs.length) replace("queue", element("caption", {textContent: "No file waits."}));
  if (total > jobs.length) $("queue").append(element("caption", {textContent: `and ${total - jobs.length} more`}));
}

// -- uploads

async function upload(files) {
  for (const file of files) {
    $("uploading").textContent = `${file.name}: uploading and checking…`;
    try {
      const {id, report} = await send(`/api/uploads?${new URLSearchParams({name: file.name})}`, "POST", file);
      showReport(id, file.name, report);
    } catch (error) {
      say(error.message);
    }
    $("uploading").textContent = "";
  }
}

function showReport(id, name, report) {
  const good = report.verdict === "good";
  const finish = (method, label) => {
    const made = element("button", {textContent: label});
    made.addEventListener("click", async () => {
      try {
        say((await send(`/api/uploads/${id}`, method)).done);
      } catch (error) {
        say(error.message);
      }
      shown.remove();
      refreshTables();
    });
    return made;
  };
  const findings = report.findings.map((each) => element("p", {textContent: `${each.severity}: ${each.message}${each.count ? ` (${each.count} ${each.count === 1 ? "row" : "rows"})` : ""}${each.places.length ? `, first in row ${each.places[0].row}` : ""}`}));
  const shown = element("article", {className: good ? "good" : ""},
    element("p", {textContent: `${name}: ${good ? "good" : "refused"}; ${number(report.rows)} rows, ${number(report.tokens)} tokens`}),
    ...findings, good ? finish("POST", "Queue it") : null, finish("DELETE", good ? "Discard" : "Close"));
  $("reports").append(shown);
  shown.querySelector("button").focus();
}

$("file").addEventListener("change", () => { upload([...$("file").files]); $("file").value = ""; });
for (const name of ["dragover", "dragleave", "drop"]) $("drop").addEventListener(name, (event) => {
  event.preventDefault();
  $("drop").classList.toggle("over", name === "dragover");
  if (name === "drop") upload([...event.dataTransfer.files]);
});

async function showFailures() {
  const failures = await get("/api/failures");
  const articles = failures.reverse().map((each) => element("article", {},
    element("p", {textContent: `${moment(each.at)} ${each.what}: ${each.message.split("\n")[0]}`}), element("p", {textContent: each.meaning}), element("p", {textContent: `To do: ${each.advice}`})));
  const older = articles.splice(FAILURES_SHOWN);
  const wasOpen = $("failures").querySelector("details")?.open ?? false;
  replace("failures", ...articles, older.length && element("details", {open: wasOpen}, element("summary", {textContent: `${older.length} earlier`}), ...older));
  if (!failures.length) $("failures").textContent = "Nothing has failed.";
}

$("lineage-box").addEventListener("toggle", async () => {
  if (!$("lineage-box").open) return;
  try {
    const {parts} = await get("/api/lineage");
    fillTable($("lineage"), ["Steps", "File", "Rows", "Base"], parts.map((part) => [`${part.global_from}–${part.global_to}`, part.name, part.plan.rows, part.base ?? "the first model"]));
  } catch (error) {
    replace("lineage", element("caption", {textContent: error.message}));
  }
});

let tablesTimer = null;
function refreshTables() {
  tablesTimer ??= setTimeout(() => {
    tablesTimer = null;
    Promise.all([showQueue(), showModels(), showEvaluation(), showFailures()]).catch((error) => say(error.message));
  }, REFRESH_MS);
}

let chartTimer = null;
function refreshChart() {
  chartTimer ??= setTimeout(() => { chartTimer = null; loadChart().catch((error) => say(error.message)); }, REFRESH_MS);
}

const SAMPLE_KINDS = /^(samples_|head_moved)/;
const samples = makeSamples({get, element, replace, fillTable, number, color});
const refreshSamples = () => samples.refresh().catch((error) => say(error.message));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => samples.restyle().catch((error) => say(error.message)));
const correction = makeCorrection({get, fillTable, number});
const refreshCorrection = () => correction.refresh().catch((error) => say(error.message));
$("sample-now").addEventListener("click", () => act("sample"));

// -- journal

const kinds = new Set();

function recordLine({seq, at, kind, event}) {
  if (!kinds.has(kind)) {
    kinds.add(kind);
    $("kind").append(element("option", {value: kind, textContent: kind}));
  }
  const words = Object.entries(event).filter(([name, value]) => name !== "v" && value !== null && typeof value !== "object").map(([name, value]) => `${name}=${String(value).slice(0, 80)}`);
  const line = element("li", {}, element("span", {textContent: `${seq} `}), element("time", {dateTime: at, textContent: `${clock(at)} `}), element("b", {textContent: kind}), element("span", {textContent: ` ${words.join(" ")}`}));
  line.dataset.kind = kind;
  line.hidden = $("kind").value !== "" && $("kind").value !== kind;
  return line;
}

function addRecords(records) {
  const list = $("journal");
  list.prepend(...records.slice(-JOURNAL_SHOWN).map(recordLine).reverse());
  while (list.children.length > JOURNAL_SHOWN) list.lastChild.remove();
}

$("kind").addEventListener("change", async () => {
  const kind = $("kind").value;
  replace("journal");
  addRecords(await get(`/api/journal?${new URLSearchParams({number: JOURNAL_SHOWN, ...(kind && {kind})})}`));
});

// -- stream

function connected(text, tone) {
  $("connection").textContent = text;
  $("connection").dataset.tone = tone;
}

function listen(seq) {
  const stream = new EventSource(`/api/stream?after=${seq}`);
  stream.addEventListener("open", () => connected("", ""));
  stream.addEventListener("error", () => connected("no connection; trying again", "bad")); // The browser reconnects with the last id.
  stream.addEventListener("status", ({data}) => showStatus(JSON.parse(data)));
  stream.addEventListener("reload", () => { stream.close(); start(); });
  stream.addEventListener("records", ({data}) => {
    const records = JSON.parse(data);
    const wanted = $("kind").value;
    addRecords(wanted ? records.filter((record) => record.kind === wanted) : records);
    if (records.some(({kind}) => ["step_reached", "evaluation_done", "head_moved"].includes(kind)) && view.last === null) refreshChart();
    if (records.some(({kind}) => SAMPLE_KINDS.test(kind))) refreshSamples();
    if (records.some(({kind}) => kind.startsWith("self_correction_"))) refreshCorrection();
    if (records.some(({kind}) => kind !== "step_reached")) refreshTables();
  });
}

// -- start

async function start() {
  try {
    const [status, shown, tail] = await Promise.all([get("/api/status"), fetchChart(view.first, view.last), get(`/api/journal?number=${JOURNAL_SHOWN}`)]);
    $("content").hidden = false;
    $("sign-in").hidden = true;
    plots.clear();
    replace("charts");
    drawCharts(shown);
    replace("journal");
    addRecords(tail);
    $("where").textContent = status.home;
    showStatus(status);
    refreshTables();
    refreshSamples();
    refreshCorrection();
    const seq = tail.at(-1)?.seq ?? 0;
    if (seq > shown.seq) refreshChart(); // A record arrived between the two answers.
    listen(seq);
  } catch (error) {
    if (!(error instanceof SignIn)) return say(`${error.message}; reload the page to try again`);
    $("content").hidden = true;
    $("sign-in").hidden = false;
  }
}

async function signIn(given) {
  sessionStorage.setItem(TOKEN, given);
  try {
    await post("/api/session");
  } catch (error) {
    sessionStorage.removeItem(TOKEN);
    say(error.message);
  }
  await start();
}

for (const button of document.querySelectorAll("#controls button")) button.addEventListener("click", () => act(button.dataset.action, {}, button.dataset.ask));
$("sign-in").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(new FormData(event.target).get("token").trim());
});

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  history.replaceState(null, "", location.pathname); // Keep the token out of the history and of screenshots.
  signIn(given);
} else start();
