const Dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const LOCALE = "en-US";
  const MINUS = "\u2212";
  // Python marks characters that hide or turn text: \x01 their name \x02.
  const MARKED = /\x01([^\x01\x02]*)\x02/;

  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));

  /** A fragment of text nodes, with a badge for each marked character. */
  const text = (words) => {
    const fragment = document.createDocumentFragment();
    String(words).split(MARKED).forEach((piece, i) => {
      if (i % 2) fragment.append(make("span", { class: "ctl", text: piece }));
      else if (piece) fragment.append(piece);
    });
    return fragment;
  };

  /** The same for an attribute: the names stand in brackets. */
  const plain = (words) => String(words).split(MARKED).map((piece, i) => (i % 2 ? `[${piece}]` : piece)).join("");

  const fill = (element, { text: words, on = {}, ...attributes }, children) => {
    for (const [name, value] of Object.entries(attributes)) set(element, name, value);
    for (const [event, act] of Object.entries(on)) element.addEventListener(event, act);
    if (words !== undefined && words !== null) element.append(text(words));
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) element.append(child instanceof Node ? child : text(child));
    }
    return element;
  };

  /** Set an attribute; null and false take it away, true leaves it empty; ARIA's false is a word. */
  const set = (element, name, value) => {
    if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) {
      element.removeAttribute(name);
    } else {
      element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : plain(value));
    }
  };

  /** make("p", { class, text, on: { click }, …attributes }, …children) */
  const make = (tag, options = {}, ...children) => fill(document.createElement(tag), options, children);

  /** The same for a part of an SVG. */
  const svg = (tag, options = {}, ...children) => fill(document.createElementNS(SVG, tag), options, children);

  const button = (label, act, options = {}) =>
    make("button", { type: "button", text: label, ...options, on: { click: act } });

  /** A button that copies what `words()` returns; where the clipboard is closed it selects `source` instead. */
  const copyButton = (words, source) => {
    const made = button("Copy", async () => {
      let said = "Copied";
      try {
        await navigator.clipboard.writeText(words());
      } catch {
        window.getSelection().selectAllChildren(source);
        said = "Selected";
      }
      made.textContent = said;
      announce(said);
      setTimeout(() => { made.textContent = "Copy"; }, 1600);
    });
    return made;
  };

  const grouped = (value, decimals) =>
    value.toLocaleString(LOCALE, { minimumFractionDigits: decimals, maximumFractionDigits: decimals });

  const signed = (words) => {
    if (!words.startsWith("-")) return words;
    return /[1-9]/.test(words) ? MINUS + words.slice(1) : words.slice(1);
  };

  /** A decimal as it is written in a command, with a minus sign that can be seen. */
  const minus = (decimal) => decimal.replace(/^-/, MINUS);

  const exponential = (value) =>
    value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");

  /** Three significant digits, thousands grouped; whole numbers stay whole; very small ones in powers. */
  const number = (value) => {
    if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? `${MINUS}∞` : "none";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e15) return signed(grouped(value, 0));
    if (size < 1e-4 || size >= 1e15) return signed(exponential(value));
    return signed(grouped(value, Math.max(0, 2 - Math.floor(Math.log10(size)))));
  };

  const count = (n) => grouped(Math.trunc(n), 0);

  /** A share in percent; never 0% for something, never 100% for not quite all. */
  const percent = (part, whole) => {
    if (!whole) return "–";
    const value = (100 * part) / whole;
    if (value > 0 && value < 0.1) return "<0.1%";
    if (value > 99.9 && value < 100) return ">99.9%";
    return `${value.toFixed(Math.abs(value - Math.round(value)) < 1e-9 ? 0 : 1)}%`;
  };

  const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

  let live = null;

  /** Say something to those who cannot see it change; the last words within a moment win. */
  const announce = (words) => {
    if (!live) {
      live = make("div", { class: "sr", role: "status", "aria-live": "polite" });
      document.body.append(live);
    }
    clearTimeout(live.timer);
    live.timer = setTimeout(() => live.replaceChildren(text(words)), 150);
  };

  return { all, make, svg, set, text, plain, button, copyButton, number, minus, count, percent, plural, announce };
})();
