// Filters of the results, and the choice of the target of the curves.
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
