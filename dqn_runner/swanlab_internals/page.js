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

document.addEventListener("click", (event) => {
  const header = event.target.closest?.(".dashboard-table .table-header-item");
  if (header && !event.target.closest("button")) sortBy(header);
});

function sortBy(header) {
  const headers = [...header.parentElement.children];
  const column = headers.indexOf(header);
  // Numbers first from high to low, because returns are what one sorts most; names from a to z.
  const before = header.getAttribute("aria-sort");
  const cells = [...header.closest(".dashboard-table").querySelectorAll(".line")].map((row) => [
    row.children[0].innerText.trim(),
    row.children[column].innerText.trim(),
  ]);
  const isNumeric = cells.every(([, text]) => text === "-" || text !== "" && !isNaN(text));
  const first = isNumeric ? "descending" : "ascending";
  const second = isNumeric ? "ascending" : "descending";
  const order = before === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const value = new Map(cells);
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === "-" || a === undefined) return 1; // what has no value comes last
    if (b === "-" || b === undefined) return -1;
    return sign * (isNumeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  };
  store().experiments.sort((a, b) => compare(value.get(a.name), value.get(b.name)));
  for (const other of headers) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
}

// What is shown --------------------------------------------------------------------------------
const CHOICES = { runs: "Runs", groups: "Groups", both: "Both" };

async function addChoice() {
  const { data } = await (await fetch(`${API}/project`)).json();
  const box = document.createElement("div");
  box.id = "show";
  box.append("Show ");
  for (const [what, title] of Object.entries(CHOICES)) {
    const button = document.createElement("button");
    button.textContent = title;
    button.setAttribute("aria-pressed", String(what === data.shown));
    button.onclick = async () => {
      await fetch(`${API}/show/${what}`, { method: "PATCH", body: "{}" });
      location.assign(location.pathname.startsWith("/experiment") ? "/" : location.pathname);
    };
    box.append(button);
  }
  document.body.append(box);
}

addEventListener("DOMContentLoaded", addChoice);
