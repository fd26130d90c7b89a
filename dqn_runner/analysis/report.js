"use strict";

// Text and the numbers in it, by turns: "agent.lr=0.001" sorts before "agent.lr=0.01".
const NUMBERS = /((?:(?<=^|[=[,(])-)?\d+(?:\.\d+)?(?:e[-+]?\d+)?)/i;

function textParts(text) {
  return text.split(NUMBERS).map((part, i) => (i % 2 ? Number(part) : part));
}

function compareTexts(a, b) {
  const [left, right] = [textParts(a), textParts(b)];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    if (left[i] < right[i]) return -1;
    if (left[i] > right[i]) return 1;
  }
  return left.length - right.length;
}

// Rows without a number, such as "never", stay below all others in both directions.
function compareCells(a, b, direction) {
  if (!("number" in a.dataset && "number" in b.dataset)) {
    return direction * compareTexts(a.textContent, b.textContent);
  }
  const [left, right] = [Number(a.dataset.number), Number(b.dataset.number)];
  if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
  return direction * (left - right);
}

function sortBy(header) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = header.closest("table").tBodies[0];
  const compare = (a, b) =>
    compareCells(a.cells[header.cellIndex], b.cells[header.cellIndex], ascending ? 1 : -1);
  body.append(...[...body.rows].sort(compare));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

// Paper has no folds.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
window.addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
});
