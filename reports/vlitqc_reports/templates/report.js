"use strict";
// Everything here only adds to a page that is complete without it.
(() => {
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));
  const button = (label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.addEventListener("click", () => act(made));
    return made;
  };

  // Copy a command.
  for (const block of all("pre.command")) {
    const copy = button("Copy", async () => {
      const text = block.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        // Without the right to write to the clipboard the text is at least selected.
        window.getSelection().selectAllChildren(block.querySelector("code"));
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1600);
    });
    const frame = document.createElement("div");
    frame.className = "copyable";
    block.replaceWith(frame);
    frame.append(block, copy);
  }

  // Open or close every fold of a gallery at once.
  for (const gallery of all("#samples .part")) {
    let open = false;
    const toggle = button("Open all", () => {
      open = !open;
      for (const fold of all("details", gallery)) fold.open = open;
      toggle.textContent = open ? "Close all" : "Open all";
      toggle.setAttribute("aria-pressed", String(open));
    });
    toggle.classList.add("toggle");
    toggle.setAttribute("aria-pressed", "false");
    gallery.querySelector("h3").after(toggle);
  }

  // Draw or hide the objects on every picture of a gallery.
  for (const gallery of all("#samples .part")) {
    if (!gallery.querySelector(".marks")) continue;
    const draw = button("Show objects", () => {
      const shown = gallery.classList.toggle("marked");
      draw.setAttribute("aria-pressed", String(shown));
    });
    draw.classList.add("toggle");
    draw.setAttribute("aria-pressed", "false");
    gallery.querySelector("h3").after(draw);
  }

  // A printed page has no folds, except raw details.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("details:not([open]):not(.raw)");
    for (const fold of closed) fold.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const fold of closed) fold.open = false;
  });

  // Sort and filter the issues.
  const table = document.getElementById("issue-table");
  if (table) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const tools = document.getElementById("issue-tools");
    const text = document.getElementById("issue-text");
    const severity = document.getElementById("issue-severity");
    const status = document.getElementById("issue-count");
    const filter = () => {
      const wanted = text.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        row.hidden = (severity.value && row.dataset.severity !== severity.value)
          || (wanted !== "" && !row.textContent.toLowerCase().includes(wanted));
        if (!row.hidden) shown += 1;
      }
      status.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} kinds`;
    };
    tools.hidden = false;
    tools.addEventListener("submit", (event) => event.preventDefault());
    text.addEventListener("input", filter);
    severity.addEventListener("change", filter);
    const heads = all("th[data-sort]", table);
    for (const head of heads) {
      const key = head.dataset.sort;
      const sort = button(head.textContent, () => {
        const down = head.getAttribute("aria-sort")
          ? head.getAttribute("aria-sort") === "ascending"
          : key === "n";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const compare = key === "kind"
          ? (a, b) => a.dataset.kind.localeCompare(b.dataset.kind)
          : (a, b) => Number(a.dataset[key]) - Number(b.dataset[key]);
        rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
        body.append(...rows);
      });
      head.replaceChildren(sort);
    }
  }

  // Mark the section in view.
  const links = new Map(all(".toc a").map((link) => [link.getAttribute("href").slice(1), link]));
  if ("IntersectionObserver" in window) {
    const inView = new Set();
    const order = Array.from(links.keys());
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) inView.add(entry.target.id);
        else inView.delete(entry.target.id);
      }
      const current = order.filter((id) => inView.has(id)).pop();
      for (const [id, link] of links) {
        if (id === current) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }, { rootMargin: "-20% 0px -70% 0px" });
    for (const id of links.keys()) {
      const target = document.getElementById(id);
      if (target) observer.observe(target);
    }
  }
})();
