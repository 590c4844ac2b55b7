"use strict";
(() => {
  const root = document.documentElement;

  // Dark mode: the system's choice until the reader makes one.
  const theme = document.getElementById("theme");
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const show = () => theme.setAttribute("aria-pressed", String(isDark()));
  if (stored() === "dark" || stored() === "light") root.dataset.theme = stored();
  theme.hidden = false;
  show();
  system.addEventListener("change", show);
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private mode: this page only */ }
    show();
  });

  // Sorting: cells without a value stay last in both directions.
  const table = document.getElementById("cells");
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  const number = (text) => (text === "nan" || text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text));
  const compare = (a, b, numeric) => {
    if (!numeric) return a.localeCompare(b, "en", { numeric: true });
    const [x, y] = [number(a), number(b)];
    return x === y ? 0 : x < y ? -1 : 1;
  };
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = heading.classList.contains("number");
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [key(one, column), key(other, column)];
        if (a === "" || b === "") return (a === "") - (b === "");
        return compare(a, b, numeric) * (down ? -1 : 1);
      });
      body.append(...rows);
    });
  });

  // Filtering.
  const form = document.getElementById("filters");
  const shown = document.getElementById("shown");
  const filter = () => {
    const { solution, status, low, high } = form.elements;
    let count = 0;
    for (const row of body.rows) {
      const tokens = Number(row.dataset.t);
      const fits =
        (!solution.value || row.dataset.solution === solution.value) &&
        (!status.value || row.dataset.status === status.value) &&
        (low.value === "" || tokens >= Number(low.value)) &&
        (high.value === "" || tokens <= Number(high.value));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${body.rows.length} cells`;
  };
  form.hidden = false;
  for (const kind of ["input", "change"]) form.addEventListener(kind, filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  // Lines of the charts: the chosen solution's, or the one under the pointer, stands out from the others.
  const highlight = document.getElementById("highlight");
  const lines = [...document.querySelectorAll(".chart g[id*='-series-']")];
  const isOf = (line, index) => line.id.endsWith(`-series-${index}`);
  const emphasise = (index) => {
    for (const line of lines) {
      line.classList.toggle("dim", index !== "" && !isOf(line, index));
      line.classList.toggle("front", isOf(line, index));
    }
  };
  if (highlight) {
    const choice = highlight.querySelector("select");
    highlight.hidden = false;
    choice.addEventListener("change", () => {
      emphasise(choice.value);
      for (const line of lines) if (isOf(line, choice.value)) line.parentNode.append(line);
    });
    for (const line of lines) {
      line.addEventListener("mouseenter", () => emphasise(line.id.split("-").pop()));
      line.addEventListener("mouseleave", () => emphasise(choice.value));
    }
  }

  // What is known of a cell, on hover and on focus.
  const tip = document.getElementById("tip");
  const open = (target) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    target.setAttribute("aria-describedby", "tip");
    const box = target.getBoundingClientRect();
    const left = Math.min(box.left, root.clientWidth - tip.offsetWidth - 8);
    const below = box.bottom + tip.offsetHeight + 8 < innerHeight || box.top < tip.offsetHeight + 8;
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${(below ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + scrollY}px`;
  };
  const close = () => {
    tip.hidden = true;
    document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  };
  const tipped = (event) => event.target.closest?.(".tipped");
  for (const [start, end] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    document.addEventListener(start, (event) => { if (tipped(event)) { close(); open(tipped(event)); } });
    document.addEventListener(end, (event) => { if (tipped(event)) close(); });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
})();
