"use strict";
// The page reads without this; with it, tables sort and filter, and the curves' target can be chosen.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
        return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
      };
      const sign = down ? -1 : 1;
      const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, key: key(row) }));
      rows.sort((a, b) => {
        if (Number.isNaN(a.key) || Number.isNaN(b.key)) return Number.isNaN(a.key) - Number.isNaN(b.key) || a.place - b.place;
        return a.key < b.key ? -sign : a.key > b.key ? sign : a.place - b.place;
      });
      table.tBodies[0].append(...rows.map((each) => each.row));
    });
  });
}

const results = document.getElementById("results");
if (results) {
  const words = document.getElementById("filter");
  const backend = document.getElementById("backend");
  const hard = document.getElementById("hard");
  const shown = document.getElementById("shown");
  const filter = () => {
    const wanted = words.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of results.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const keep = wanted.every((word) => text.includes(word))
        && (backend.value === "" || row.dataset.backend === backend.value)
        && (!hard.checked || row.dataset.easy === "no");
      row.hidden = !keep;
      count += keep ? 1 : 0;
    }
    shown.textContent = `${count} of ${results.tBodies[0].rows.length} rows`;
  };
  for (const control of [words, backend, hard]) control.addEventListener("input", filter);
  filter();
}

const target = document.getElementById("target");
if (target) {
  const choose = () => {
    for (const chart of document.querySelectorAll("[data-target]")) chart.hidden = chart.dataset.target !== target.value;
  };
  target.addEventListener("input", choose);
  choose();
}
