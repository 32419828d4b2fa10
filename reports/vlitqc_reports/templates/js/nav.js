const Nav = (() => {
  /** A button beside every command that copies it. */
  const copyable = () => {
    for (const block of Dom.all("pre.command")) {
      const code = block.querySelector("code");
      const frame = Dom.make("div", { class: "copyable" });
      block.replaceWith(frame);
      frame.append(block, Dom.copyButton(() => code.textContent, code));
    }
  };

  /** A printed page has no folds, except raw details and the scores of each card. */
  const printable = () => {
    let opened = [];
    window.addEventListener("beforeprint", () => {
      opened = Dom.all("details:not([open], .raw, .all-scores)");
      for (const fold of opened) fold.open = true;
    });
    window.addEventListener("afterprint", () => {
      for (const fold of opened) fold.open = false;
    });
  };

  /** Mark the section in view. */
  const followed = () => {
    const links = new Map(Dom.all(".toc a").map((link) => [link.getAttribute("href").slice(1), link]));
    const order = Array.from(links.keys());
    const inView = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) inView.add(entry.target.id);
        else inView.delete(entry.target.id);
      }
      const current = order.findLast((id) => inView.has(id));
      for (const [id, link] of links) Dom.set(link, "aria-current", id === current ? "true" : null);
    }, { rootMargin: "-20% 0px -70% 0px" });
    for (const id of order) {
      const target = document.getElementById(id);
      if (target) observer.observe(target);
    }
  };

  const start = () => {
    copyable();
    printable();
    followed();
  };

  return { start };
})();
