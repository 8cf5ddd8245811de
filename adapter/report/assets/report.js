"use strict";
// What the page can do beyond being read: colours, sorting, filtering, printing all of it. Without this script nothing is missing but that.

const root = document.documentElement;

// Colours: as the system, light, dark.
const THEMES = { "": "as the system", light: "light", dark: "dark" };
const remembered = {
  get() {
    try {
      return localStorage.getItem("d2st-theme") || "";
    } catch {
      return ""; // a page from a file may have no storage
    }
  },
  set(value) {
    try {
      localStorage.setItem("d2st-theme", value);
    } catch {
      return; // then it holds for this visit
    }
  },
};

function showTheme(button, value) {
  if (value) root.dataset.theme = value;
  else delete root.dataset.theme;
  button.textContent = `Colours: ${THEMES[value]}`;
}

function addTheme() {
  const button = document.getElementById("theme");
  const names = Object.keys(THEMES);
  let value = remembered.get();
  if (!names.includes(value)) value = "";
  showTheme(button, value);
  button.hidden = false;
  button.addEventListener("click", () => {
    value = names[(names.indexOf(value) + 1) % names.length];
    remembered.set(value);
    showTheme(button, value);
  });
}

// Sorting: each heading of a sortable table becomes a button.
function valueOf(row, column) {
  const cell = row.cells[column];
  const shown = cell.dataset.v ?? cell.textContent;
  const number = Number(shown);
  return shown !== "" && !Number.isNaN(number) ? number : shown;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(table, heading, column) {
  const falling = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  rows.sort((a, b) => compare(a[0], b[0]) * (falling ? -1 : 1));
  body.append(...rows.map((pair) => pair[1]));
}

function addSorting(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sortBy(table, heading, column));
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
  });
}

// Filtering: a row shows when it fits every field of the form.
function fits(row, wanted) {
  for (const name of ["label", "method", "dataset", "kind"]) {
    if (wanted[name] && row.dataset[name] !== wanted[name]) return false;
  }
  const outcome = row.dataset.outcome;
  if (wanted.outcome && !(wanted.outcome === "mistake" ? outcome !== "correct" : outcome === wanted.outcome)) return false;
  const score = Number(row.dataset.score);
  if (wanted.low !== "" && score < Number(wanted.low)) return false;
  if (wanted.high !== "" && score > Number(wanted.high)) return false;
  return row.cells[0].textContent.toLowerCase().includes(wanted.words.toLowerCase());
}

function addFilters(table, form, count) {
  const rows = [...table.tBodies[0].rows];
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    let shown = 0;
    for (const row of rows) {
      row.hidden = !fits(row, wanted);
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? `${shown} samples` : `${shown} of ${rows.length} samples`;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply)); // the fields are cleared after this event
  apply(); // a browser may have kept the fields of an earlier visit
}

addTheme();
document.querySelectorAll("table[data-sortable]").forEach(addSorting);
const samples = document.getElementById("samples-table");
if (samples) addFilters(samples, document.getElementById("filters"), document.getElementById("samples-count"));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
