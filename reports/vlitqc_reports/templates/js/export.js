const Export = (() => {
  // What a drawing takes from the page's style sheet, which a file of its own does not have.
  const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity"];
  const LETTERS = ["font-family", "font-size", "font-weight", "text-anchor", "paint-order"];
  const DRAWN = "g, rect, line, path, circle, text";
  const MARGIN = 8;
  const HEADING = 26;
  const SCALE = 2;
  const LEGEND = 230;
  const LETTER = 13;
  const KEPT = 30_000;

  const clean = (words) => words.replace(/[^\p{L}\p{N}_-]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "plot";

  /** demo-matching_degree.svg */
  const fileName = (name, ending) => {
    const data = document.querySelector("h1").textContent.replace(/\.\w{1,8}$/, "");
    return `${clean(data)}-${clean(name)}.${ending}`;
  };

  const save = (blob, name) => {
    const url = URL.createObjectURL(blob);
    Dom.make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), KEPT);
    Dom.announce(`${name} is saved`);
  };

  /** The first colour that is painted behind an element. */
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { backgroundColor } = getComputedStyle(at);
      if (backgroundColor !== "rgba(0, 0, 0, 0)") return backgroundColor;
    }
    return "white";
  };

  const inline = (shown, copy) => {
    const style = getComputedStyle(shown);
    if (shown.matches(DRAWN) && style.display === "none") {
      copy.remove();
      return;
    }
    const copies = Array.from(copy.children);
    Array.from(shown.children).forEach((child, i) => inline(child, copies[i]));
    copy.removeAttribute("class");
    const properties = shown.matches("text") ? [...PAINT, ...LETTERS] : shown.matches(DRAWN) ? PAINT : [];
    for (const property of properties) copy.setAttribute(property, style.getPropertyValue(property));
  };

  /** The chart as it is seen, as a document of its own, and its size. */
  const standalone = (chart) => {
    const copy = chart.cloneNode(true);
    inline(chart, copy);
    const { x, y, width, height } = chart.viewBox.baseVal;
    const box = { x: x - MARGIN, y: y - MARGIN - HEADING, width: width + 2 * MARGIN, height: height + 2 * MARGIN + HEADING };
    const { color, fontFamily } = getComputedStyle(chart);
    Dom.set(copy, "viewBox", Object.values(box).join(" "));
    Dom.set(copy, "width", box.width);
    Dom.set(copy, "height", box.height);
    copy.prepend(
      Dom.svg("title", { text: chart.getAttribute("aria-label") }),
      Dom.svg("rect", { ...box, fill: ground(chart) }),
      Dom.svg("text", { x, y: y - HEADING / 2, fill: color, "font-family": fontFamily, "font-size": 14,
        "font-weight": 600, text: chart.dataset.title }),
    );
    const text = `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
    return { text, width: box.width, height: box.height };
  };

  const blobOf = (canvas) => new Promise((done) => { canvas.toBlob(done, "image/png"); });

  const rasterised = async ({ text, width, height }) => {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = Dom.make("canvas", { width: SCALE * width, height: SCALE * height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return blobOf(canvas);
  };

  const saveSvg = (chart) =>
    save(new Blob([standalone(chart).text], { type: "image/svg+xml" }), fileName(chart.dataset.name, "svg"));

  const savePng = async (chart) => save(await rasterised(standalone(chart)), fileName(chart.dataset.name, "png"));

  /** The points of the map as they are seen, on the page's ground, with the legend beside them. */
  const saveMap = async () => {
    const { canvas } = ScatterMap;
    const scale = canvas.width / canvas.clientWidth;
    const copy = Dom.make("canvas", { width: canvas.width + LEGEND * scale, height: canvas.height });
    const context = copy.getContext("2d");
    const { color, fontFamily } = getComputedStyle(canvas);
    context.fillStyle = ground(canvas);
    context.fillRect(0, 0, copy.width, copy.height);
    context.drawImage(canvas, 0, 0);
    context.setTransform(scale, 0, 0, scale, canvas.width, 0);
    context.font = `${LETTER}px ${fontFamily}`;
    Dom.all("#map-plot li").forEach((entry, i) => {
      const y = LETTER * (2 + 1.7 * i);
      context.fillStyle = getComputedStyle(entry.querySelector("i")).backgroundColor;
      context.fillRect(0, y - 0.85 * LETTER, LETTER, LETTER);
      context.fillStyle = color;
      context.fillText(entry.textContent.replace(/([\d,]+)$/, " $1"), 1.6 * LETTER, y, LEGEND - 2 * LETTER);
    });
    save(await blobOf(copy), fileName("map", "png"));
  };

  /** One stop for the tab key; the arrow keys go from button to button. */
  const toolbar = (label, buttons) => {
    buttons.forEach((button, i) => Dom.set(button, "tabindex", i === 0 ? 0 : -1));
    const move = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length;
      buttons.forEach((button, i) => Dom.set(button, "tabindex", i === next ? 0 : -1));
      buttons[next].focus();
      event.preventDefault();
      event.stopPropagation();
    };
    return Dom.make("div", { class: "save", role: "toolbar", "aria-label": label, on: { keydown: move } }, ...buttons);
  };

  const offer = (chart) => {
    const { title } = chart.dataset;
    const frame = Dom.make("div", { class: "plot" });
    chart.replaceWith(frame);
    frame.append(chart, toolbar(`Save the plot: ${title}`, [
      Dom.button("SVG", () => saveSvg(chart), { "aria-label": `Save as SVG: ${title}` }),
      Dom.button("PNG", () => savePng(chart), { "aria-label": `Save as PNG: ${title}` }),
    ]));
  };

  const start = () => {
    Dom.all("svg.chart[data-name]").forEach(offer);
    if (Data.meta.maps.length) {
      document.getElementById("map-plot")?.after(Dom.button("Save the map as PNG", saveMap, { class: "save-map" }));
    }
  };

  return { start };
})();
