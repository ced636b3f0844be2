// Helpers of all parts of the page: elements, formats, requests, questions. All text is set as text, never as HTML.

export const $ = (id) => document.getElementById(id);
export const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};
export const replace = (id, ...children) => $(id).replaceChildren(...children.filter(Boolean));

// -- formats

export const size = (bytes) => bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.round(bytes / 1e3)} kB`;
export const share = (value) => value === null || value === undefined ? "unknown" : `${Math.round(value * 100)} %`;
export const duration = (s) => s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 129600 ? `${(s / 3600).toFixed(1)} h` : `${(s / 86400).toFixed(1)} days`;
export const moment = (iso) => new Date(iso).toLocaleString([], {dateStyle: "short", timeStyle: "short"});
export const clock = (iso) => new Date(iso).toLocaleTimeString();
export const number = (value) => typeof value !== "number" ? String(value ?? "—") : value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(2) : value.toLocaleString(undefined, {maximumFractionDigits: 4});

// -- talking to the server

export const TOKEN = "keepstep-token";

const token = () => sessionStorage.getItem(TOKEN) ?? "";

export async function get(path) {
  const answer = await fetch(path);
  if (answer.status === 401) throw new SignIn();
  const body = await answer.json();
  if (!answer.ok) throw new Error([body.error, body.advice].filter(Boolean).join("; "));
  return body;
}

export class SignIn extends Error {}

export async function send(path, method, body) {
  const answer = await fetch(path, {method, headers: {Authorization: `Bearer ${token()}`}, body});
  const said = await answer.json();
  if (!answer.ok) throw new Error([said.error, said.advice].filter(Boolean).join("; "));
  return said;
}

export const post = (path, body) => send(path, "POST", JSON.stringify(body ?? {}));

let saidTimer;
export function say(text) {
  $("said").textContent = text;
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => { $("said").textContent = ""; }, 6000);
}

export function confirmed(question) {
  $("question").textContent = question;
  const dialog = $("ask");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {once: true}));
}

// A color of the style sheet, in the scheme that is shown now.
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const axes = () => {
  const axis = {stroke: color("--soft"), grid: {stroke: color("--line"), width: 1}, ticks: {stroke: color("--line")}};
  return [axis, {...axis, size: 64, values: (_, values) => values.map(number)}];
};

export const line = (label, stroke, more = {}) => ({label, stroke, points: {show: false}, value: (_, value) => number(value), ...more});

// A place for a chart, with a table of its numbers below.
export function figure(parent, title) {
  const place = element("div"), table = element("table");
  const data = element("details", {}, element("summary", {textContent: "Numbers"}), element("div", {className: "data", tabIndex: 0}, table));
  parent.append(element("figure", {}, element("figcaption", {textContent: title}), place, data));
  return {place, table};
}

export function facts(id, rows) {
  replace(id, ...rows.filter(([, value]) => value).map(([name, value]) => element("div", {}, element("dt", {textContent: name}), element("dd", {textContent: value}))));
}

export function fillTable(table, titles, rows) {
  table.replaceChildren(
    element("thead", {}, element("tr", {}, ...titles.map((title) => element("th", {textContent: title, scope: "col"})))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => cell instanceof Node ? element("td", {}, cell) : element("td", {textContent: number(cell)}))))),
  );
}
