// Added to SwanLab's dashboard page. page.py changes the page so that it calls pointsOf.
"use strict";

const API = "/api/v1";

// Points ---------------------------------------------------------------------------------------
// All requests for the points of one metric that are made together are sent as one.
const waiting = new Map(); // metric -> run -> [resolve, reject]

window.pointsOf = (run, metric) =>
  new Promise((resolve, reject) => {
    if (!waiting.size) setTimeout(sendAll);
    if (!waiting.has(metric)) waiting.set(metric, new Map());
    waiting.get(metric).set(run, [resolve, reject]);
  });

function sendAll() {
  for (const [metric, runs] of waiting) send(metric, runs);
  waiting.clear();
}

async function send(metric, runs) {
  try {
    const name = metric.split("/").map(encodeURIComponent).join("/");
    const answer = await fetch(`${API}/points/${name}?ids=${[...runs.keys()].join(",")}`);
    const { data } = await answer.json();
    for (const [run, [resolve]] of runs) resolve({ data: asList(data[run], run) });
  } catch (error) {
    for (const [, reject] of runs.values()) reject(error);
  }
}

function asList(columns, run) {
  if (!columns || columns.list) return columns ?? { list: [], experiment_id: run };
  const began = Date.parse(columns.began);
  const list = columns.index.map((index, i) => ({
    index,
    data: columns.data[i],
    create_time: new Date(began + 1000 * columns.seconds[i]).toISOString(),
  }));
  if (list.length) list.at(-1)._last = true;
  return { list, experiment_id: run };
}

// Sorting --------------------------------------------------------------------------------------
// A click on a header sorts the table by its column; another click turns the order round.
const store = () =>
  document.querySelector("#app").__vue_app__.config.globalProperties.$pinia._s.get("project");

// The first columns are not settings, and show their values in words.
const FIRST = [
  (entry) => entry.name,
  (entry) => entry.status,
  (entry) => entry.create_time,
  (entry) => entry.config.wall_time_seconds?.value,
];
let sorted = null; // the column, and whether it goes up

document.addEventListener("click", (event) => {
  const header = event.target.closest?.(".dashboard-table .table-header-item");
  if (!header || event.target.closest("button")) return;
  const column = [...header.parentElement.children].indexOf(header);
  const values = valuesOf(header, column);
  const isNumeric = values.every((value) => value == null || typeof value === "number");
  // Numbers first from high to low, because returns are what one sorts most; names from a to z.
  const isUp = sorted?.column === column ? !sorted.isUp : !isNumeric;
  sorted = { column, isUp };
  sort();
});

function valuesOf(header, column) {
  const title = header.querySelector("p").title;
  const entries = store().experiments;
  if (column < FIRST.length) return entries.map(FIRST[column]);
  if (entries.some((entry) => title in entry.config))
    return entries.map((entry) => entry.config[title]?.value);
  const shown = new Map(); // the last value of a metric, which only the table has
  for (const row of document.querySelectorAll(".dashboard-table .line")) {
    const text = row.children[column].innerText.trim();
    shown.set(row.querySelector("p").title, text === "-" ? null : Number(text));
  }
  return entries.map((entry) => shown.get(entry.name));
}

function sort() {
  const headers = [...document.querySelectorAll(".dashboard-table .table-header-item")];
  const header = sorted && headers[sorted.column];
  if (!header) return;
  const { experiments } = store();
  const values = valuesOf(header, sorted.column);
  const value = new Map(experiments.map((entry, i) => [entry.id, values[i]]));
  const sign = sorted.isUp ? 1 : -1;
  experiments.sort((a, b) => sign * compare(value.get(a.id), value.get(b.id), sign));
  for (const other of headers) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sorted.isUp ? "ascending" : "descending");
}

function compare(a, b, sign) {
  if (a == null || b == null) return sign * ((a == null) - (b == null)); // no value comes last
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

// What is shown --------------------------------------------------------------------------------
const CHOICES = { runs: "Runs", groups: "Groups", both: "Both" };
const SECONDS_BETWEEN_LOOKS = 5;

async function ask(path) {
  return (await (await fetch(API + path)).json()).data;
}

function addChoice(state) {
  if (state.runs < 2) return;
  const box = document.createElement("div");
  box.id = "show";
  box.append("Show ");
  for (const [what, title] of Object.entries(CHOICES)) {
    const button = document.createElement("button");
    button.textContent = title;
    button.setAttribute("aria-pressed", String(what === state.show));
    button.onclick = async () => {
      await fetch(`${API}/show/${what}`, { method: "PATCH", body: "{}" });
      location.assign(location.pathname.startsWith("/experiment") ? "/" : location.pathname);
    };
    box.append(button);
  }
  document.body.append(box);
}

// The page asks for new points by itself. It is loaded again when runs or groups come, go or get
// another name, and the table is filled again when results come.
async function follow(before) {
  let state = before;
  try {
    state = await ask("/state");
    if (state.entries !== before.entries) return location.reload();
    if (state.version !== before.version && location.pathname === "/") {
      store().setProject(await ask("/project"));
      sort();
    }
  } catch {
    // The dashboard has ended; the page stays as it is.
  }
  setTimeout(follow, 1000 * SECONDS_BETWEEN_LOOKS, state);
}

addEventListener("DOMContentLoaded", async () => {
  const state = await ask("/state");
  addChoice(state);
  setTimeout(follow, 1000 * SECONDS_BETWEEN_LOOKS, state);
});
