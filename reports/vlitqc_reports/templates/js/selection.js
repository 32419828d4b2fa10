const Selection = (() => {
  const TASKS = 8;
  let rows = null;
  let words = "";
  let key = null;
  let gallery = null;
  let withCards = [];

  /**
   * Select these rows, or none with null. `said` tells where they come from; `from` is the name of the group that
   * they are, if they are one: "array:code".
   */
  const set = (next, said = "", from = null) => {
    rows = next === null ? null : new Set(next);
    words = rows === null ? "" : said;
    key = rows === null ? null : from;
    withCards = Array.from(rows ?? []).filter(Data.hasCard).sort((a, b) => a - b);
    document.dispatchEvent(new CustomEvent("vlitqc:selection"));
    Dom.announce(rows === null ? "Nothing is selected" : summary());
  };

  /** Select a group of rows; the same group once more: nothing. With `add` it is put to, or taken out of, what is. */
  const toggle = (group, said, from, add = false) => {
    if (!add || rows === null) {
      set(key === from ? null : group, said, from);
      return;
    }
    const inside = group.every((row) => rows.has(row));
    const next = new Set(rows);
    for (const row of group) {
      if (inside) next.delete(row);
      else next.add(row);
    }
    set(next.size ? next : null, "Several groups");
  };

  const summary = () => {
    const count = `${Dom.plural(rows.size, "record")} selected`;
    if (withCards.length === rows.size) return count;
    return `${count} · ${Dom.count(withCards.length)} of them shown in this page`;
  };

  const taskCounts = () => {
    const taskOf = Data.array("task");
    if (!taskOf) return [];
    const counts = new Map();
    for (const row of rows) {
      const task = taskOf[Data.index(row)];
      counts.set(task, (counts.get(task) ?? 0) + 1);
    }
    return Array.from(counts, ([task, n]) => ({ label: Data.meta.tasks[task]?.label ?? "no task", n }))
      .sort((a, b) => b.n - a.n);
  };

  const taskList = () => {
    const counts = taskCounts();
    const rest = counts.slice(TASKS);
    const item = ({ label, n }) => Dom.make("li", {}, Dom.make("bdi", { text: label }), " ",
      Dom.make("span", { class: "n", text: `${Dom.count(n)}, ${Dom.percent(n, rows.size)}` }));
    return Dom.make("ul", { class: "selected-tasks", "aria-label": "Tasks of the selected records" },
      ...counts.slice(0, TASKS).map(item),
      rest.length ? item({ label: Dom.plural(rest.length, "other task"), n: rest.reduce((sum, { n }) => sum + n, 0) })
        : null);
  };

  const rowNumbers = () => {
    const list = Dom.make("pre", { tabindex: "0", "aria-label": "Row numbers" });
    const lines = () => Array.from(rows).sort((a, b) => a - b).join("\n");
    return Dom.make("details", {
      class: "row-numbers",
      on: { toggle: () => { list.textContent = lines(); } },
    }, Dom.make("summary", { text: "Row numbers" }), Dom.copyButton(lines, list), list);
  };

  const start = () => {
    const room = document.getElementById("selection");
    const head = Dom.make("div", { class: "selected-head" });
    const cards = Dom.make("div");
    room.append(head, cards);
    const source = {
      page: async (offset, limit) => ({ rows: withCards.slice(offset, offset + limit), total: withCards.length }),
    };
    const show = () => {
      room.hidden = rows === null;
      if (rows === null) return;
      head.replaceChildren(
        Dom.make("h3", {}, summary()),
        Dom.make("p", { class: "quiet" }, Dom.make("bdi", { text: words })),
        taskList(),
        Dom.make("div", { class: "selected-tools" }, Dom.button("Clear selection", () => set(null)), rowNumbers()));
      if (gallery) gallery.refresh();
      else gallery = Cards.gallery(cards, source, { title: "Selected samples" });
    };
    document.addEventListener("vlitqc:selection", show);
    show();
  };

  return { set, toggle, start, get rows() { return rows; }, get words() { return words; }, get key() { return key; } };
})();
