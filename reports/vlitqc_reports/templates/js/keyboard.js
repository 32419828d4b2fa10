const Keyboard = (() => {
  const { make } = Dom;

  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  let letters = true;
  let help = null;

  const reach = (element, block) => {
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block, behavior: calm.matches ? "instant" : "smooth" });
  };

  const visible = (element) => element.checkVisibility();

  /** The card in hand: the one that holds the focus. */
  const card = () => document.activeElement.closest("main .card");

  const step = (by) => {
    const all = Dom.all("main .card").filter(visible);
    const held = all.indexOf(card());
    const inView = all.findIndex((one) => one.getBoundingClientRect().bottom > 0);
    const first = by > 0 ? inView : inView - 1;
    const next = all[held < 0 ? first : held + by];
    if (next) reach(next, "nearest");
  };

  const fold = () => {
    const folds = Dom.all("details", card() ?? document.createElement("div"));
    const open = folds.some((one) => !one.open);
    for (const one of folds) one.open = open;
  };

  const enlarge = () => {
    const held = document.activeElement;
    if (held.matches("main .card")) held.querySelector(".see")?.click();
    return held.matches("main .card");
  };

  const nextMetric = () => {
    const parts = Data.meta.metrics.map(({ anchor }) => document.getElementById(anchor)).filter(Boolean);
    const held = document.activeElement.closest("main article[id], main section[id]");
    const after = parts.indexOf(held) + 1
      || parts.findIndex((part) => part.getBoundingClientRect().top > 8);
    const next = parts[after] ?? parts[0];
    if (!next) return;
    next.tabIndex = -1;
    reach(next, "start");
  };

  const findIssues = () => {
    const field = document.getElementById("issue-text");
    if (field) reach(field, "center");
    return Boolean(field);
  };

  const clearSelection = () => {
    if (Selection.rows === null) return false;
    Selection.set(null, "");
    return true;
  };

  // Each returns false where it has nothing to do and the key is left to the browser.
  const KEYS = {
    "?": { act: () => open(), words: "this list" },
    j: { act: () => step(1), words: "next card" },
    k: { act: () => step(-1), words: "previous card" },
    Enter: { act: enlarge, words: "see the card in hand large; there ← → show the others" },
    o: { act: fold, words: "open or close the folds of the card in hand" },
    m: { act: nextMetric, words: "next measurement" },
    "/": { act: findIssues, words: "find in the issues" },
    Escape: { act: clearSelection, words: "clear the selection; close what is open" },
  };
  const HANDLES = [
    ["← →", "move the threshold one step"],
    ["Page Up, Page Down", "ten steps"],
    ["Home, End", "to the end of the scale"],
  ];

  const rows = (list) => list.map(([key, words]) =>
    make("tr", {}, make("th", { scope: "row" }, make("kbd", { text: key })), make("td", { text: words })));

  const built = () => {
    const on = make("input", { type: "checkbox", checked: true, on: { change: () => { letters = on.checked; } } });
    const dialog = make("dialog", {
      class: "help", "aria-labelledby": "keys",
      on: { click: (event) => { if (event.target === dialog) dialog.close(); } },
    },
    make("h2", { id: "keys", text: "Keys" }),
    make("table", {}, make("tbody", {}, rows(Object.entries(KEYS).map(([key, { words }]) => [key, words])))),
    make("h3", { text: "On the handle of a threshold" }),
    make("table", {}, make("tbody", {}, rows(HANDLES))),
    make("p", {}, make("label", {}, on, " Keys of a single character are on")),
    make("p", { class: "end" }, Dom.button("Close", () => dialog.close(), { autofocus: true })));
    document.body.append(dialog);
    return dialog;
  };

  const open = () => (help ??= built()).showModal();

  const pressed = (event) => {
    const { key, target } = event;
    if (!Object.hasOwn(KEYS, key) || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.closest("input, select, textarea, dialog") || (key.length === 1 && !letters)) return;
    if (KEYS[key].act() !== false) event.preventDefault();
  };

  const start = () => {
    document.querySelector("header.top").append(Dom.button("Keys", open, { class: "keys", "aria-haspopup": "dialog" }));
    document.addEventListener("keydown", pressed);
  };

  return { start };
})();
