// The machine: what was measured last, what was measured over time, and what watching costs.

import {$, axes, color, duration, element, facts, figure, fillTable, get, line, share, size} from "./common.js";

const EVERY_MS = 10_000; // The daemon writes a sample each ten seconds.
const HEIGHT = 150;
const PERCENT = 100, GB = 1e-9, MB = 1e-6;

const CHARTS = [
  {title: "Processors (% of all cores)", series: [["busy", "cpu", PERCENT]], max: 100},
  {title: "Memory (GB)", series: [["used", "memory_used_bytes", GB], ["worker", "worker_bytes", GB]]},
  {title: "Free disk space (GB)", series: [["free", "disk_free_bytes", GB]]},
  {title: "Disk traffic (MB/s)", series: [["read", "read_bytes_per_s", MB], ["written", "written_bytes_per_s", MB]]},
  {title: "GPUs (% busy)", series: [["busy", "gpu", PERCENT]], max: 100},
  {title: "GPU memory (GB)", series: [["used", "gpu_memory_used_bytes", GB]]},
];

export function showMachine(machine) {
  if (!machine) return facts("machine", [["Machine", "not measured yet"]]);
  const {memory} = machine;
  facts("machine", [
    ["Processors", `${share(machine.cpu)} of ${machine.cores} cores`],
    ["Memory", `${size(memory.total_bytes - memory.available_bytes)} of ${size(memory.total_bytes)} used`],
    ["Worker", size(memory.worker_bytes)],
    ["Disk", `${size(machine.disk_free_bytes)} free`],
    ["Disk traffic", machine.written_bytes_per_s !== null && `${size(machine.read_bytes_per_s)}/s read, ${size(machine.written_bytes_per_s)}/s written`],
    ...machine.gpus.map((gpu) => [gpu.name, `${share(gpu.utilisation)}, ${gpu.memory_used_bytes === null ? "memory unknown" : `${size(gpu.memory_used_bytes)} of ${size(gpu.memory_total_bytes)}`}${gpu.temperature_c === null ? "" : `, ${gpu.temperature_c} °C`}`]),
  ]);
}

const plots = new Map();
let loadedAt = -EVERY_MS;

// Follow the samples: called with each status, so at most once a second.
export function followMachine() {
  if (performance.now() - loadedAt < EVERY_MS) return;
  loadMachine().catch(() => {}); // The line about the connection says it.
}

export function redrawMachine() {
  plots.clear();
  $("machine-charts").replaceChildren();
  loadedAt = -EVERY_MS;
  followMachine();
}

// A chart is made before those next to it, which then take a part of its width.
new ResizeObserver(() => {
  for (const {plot, place} of plots.values()) if (place.clientWidth && place.clientWidth !== plot.width) plot.setSize({width: place.clientWidth, height: HEIGHT});
}).observe($("machine-charts"));

async function loadMachine() {
  loadedAt = performance.now();
  const {samples, monitor} = await get("/api/machine");
  showOwnCost(monitor);
  for (const chart of CHARTS) {
    const data = [samples.at, ...chart.series.map(([, name, factor]) => samples[name].map((value) => value === null ? null : value * factor))];
    if (!data.slice(1).some((values) => values.some((value) => value !== null))) continue;
    if (!plots.has(chart.title)) {
      const {place, table} = figure($("machine-charts"), chart.title);
      plots.set(chart.title, {plot: new uPlot(options(chart, Math.max(240, place.clientWidth)), data, place), place, table});
    }
    const {plot, table} = plots.get(chart.title);
    plot.setData(data);
    if (table.closest("details").open || !table.rows.length) {
      const rows = data[0].map((at, place) => [new Date(at * 1000).toLocaleString(), ...data.slice(1).map((values) => values[place])]);
      fillTable(table, ["Time", ...chart.series.map(([label]) => label)], rows.reverse().slice(0, 200));
    }
  }
  const from = samples.at[0], to = samples.at.at(-1);
  $("machine-note").textContent = from === undefined ? "The daemon measures while it runs; nothing is recorded yet." : `the last ${duration(to - from)} in which a daemon ran`;
}

function options(chart, width) {
  const colors = [color("--blue"), color("--orange")];
  const series = chart.series.map(([label], place) => line(label, colors[place], {width: 1.5}));
  const y = chart.max === undefined ? {range: (_, low, high) => [0, Math.max(high ?? 0, 1e-3) * 1.1]} : {range: [0, chart.max]};
  return {width, height: HEIGHT, series: [{label: "time"}, ...series], scales: {y}, axes: axes(), cursor: {drag: {setScale: false}, sync: {key: "machine"}}};
}

// -- what watching costs

export function showCost(watching) {
  facts("cost", [
    ["Daemon", watching ? (watching.share === null ? "nothing was trained in the measured time" : `${(watching.share * 100).toFixed(2)} % of the training time`) : "measured after ten minutes of training"],
    ["Daemon, CPU time", watching && `${watching.cpu_s.toFixed(1)} s in ${duration(watching.wall_s)}`],
  ]);
  const parts = Object.entries(watching?.parts ?? {}).sort(([, one], [, other]) => other - one);
  fillTable($("cost-parts"), ["Part of the daemon", "CPU seconds"], parts);
}

function showOwnCost(monitor) {
  facts("own-cost", [
    ["This page's server", `${(100 * monitor.cpu_s / monitor.wall_s).toFixed(2)} % of a core, ${size(monitor.memory_bytes)} of memory`],
    ["Its CPU time", `${monitor.cpu_s.toFixed(1)} s in ${duration(monitor.wall_s)}`],
  ]);
}
