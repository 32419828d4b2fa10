const Issues = (() => {
  /** Sort the table by a column; the number found begins with the largest, all else with the smallest. */
  const sortable = (table, rows) => {
    const heads = Dom.all("th[data-sort]", table);
    for (const head of heads) {
      const key = head.dataset.sort;
      const sort = () => {
        const down = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : key === "n";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const compare = key === "kind"
          ? (a, b) => a.dataset.kind.localeCompare(b.dataset.kind)
          : (a, b) => Number(a.dataset[key]) - Number(b.dataset[key]);
        rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
        table.tBodies[0].append(...rows);
      };
      head.replaceChildren(Dom.button(head.textContent, sort));
    }
  };

  /** Leave the rows of one severity that hold a text. */
  const searchable = (rows) => {
    const tools = document.getElementById("issue-tools");
    const wanted = document.getElementById("issue-text");
    const severity = document.getElementById("issue-severity");
    const status = document.getElementById("issue-count");
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const filter = () => {
      const words = wanted.value.trim().toLowerCase();
      for (const row of rows) {
        const other = severity.value !== "" && row.dataset.severity !== severity.value;
        row.hidden = other || !texts.get(row).includes(words);
      }
      const shown = rows.filter((row) => !row.hidden).length;
      status.textContent = shown === rows.length ? "" : `${shown} of ${Dom.plural(rows.length, "kind")}`;
    };
    tools.hidden = false;
    tools.addEventListener("submit", (event) => event.preventDefault());
    wanted.addEventListener("input", filter);
    severity.addEventListener("change", filter);
  };

  const start = () => {
    const table = document.getElementById("issue-table");
    if (!table) return;
    const rows = Array.from(table.tBodies[0].rows);
    sortable(table, rows);
    searchable(rows);
  };

  return { start };
})();
