const Histogram = (() => {
  const PAGE = 10;
  const TOP_TASKS = 5;
  const SIDES = ["below", "above"];
  const { meta } = Data;

  /** The axis of a static chart: values to shares of its width, and back. */
  const scaleOf = (chart) => {
    const { low, high, left, right, top, base } = Object.fromEntries(
      Object.entries(chart.dataset).map(([name, words]) => [name, Number(words)]),
    );
    const view = chart.viewBox.baseVal;
    const x = (value) => left + Math.min(1, Math.max(0, (value - low) / (high - low))) * (right - left);
    return {
      left, right, top, base, x,
      share: (value) => x(value) / view.width,
      value: (share) => low + ((share * view.width - left) / (right - left)) * (high - low),
      start: left / view.width,
      end: right / view.width,
      heights: [top / view.height, base / view.height],
    };
  };

  const nearest = (values, value) => {
    let low = 0;
    let high = values.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (values[middle] <= value) low = middle;
      else high = middle;
    }
    return value - values[low] <= values[high] - value ? low : high;
  };

  /** The stop some steps on from `k`; null is beyond the last one that drops anything. */
  const stepped = (metric, side, k, by) => {
    const drops = metric[side];
    const outward = side === "below" ? -1 : 1;
    if (k === null) {
      if (Math.sign(by) === outward) return null;
      const first = side === "below" ? drops.findIndex((n) => n > 0) : drops.findLastIndex((n) => n > 0);
      if (first < 0) return null;
      return clamped(metric, first + by + outward);
    }
    const next = clamped(metric, k + by);
    return Math.sign(by) === outward && (drops[next] === 0 || next === k) ? null : next;
  };

  const clamped = (metric, k) => Math.min(metric.stops.length - 1, Math.max(0, k));

  const farEnd = (metric, side) => (side === "below" ? metric.stops.length - 1 : 0);

  /** What a key does to a handle: the stop it goes to, or undefined where the key means nothing to it. */
  const keyed = (metric, side, k, key) => {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: PAGE, PageDown: -PAGE };
    if (Object.hasOwn(steps, key)) return stepped(metric, side, k, steps[key]);
    if (key === "Home") return side === "below" ? null : farEnd(metric, side);
    if (key === "End") return side === "below" ? farEnd(metric, side) : null;
    return undefined;
  };

  /** One threshold of one metric: its handle on the chart, its field, its buttons. */
  const knob = (m, side, scale, frame) => {
    const metric = meta.metrics[m];
    const values = metric.stops.map(Number);
    const title = `Drop ${side}`;

    const flag = Dom.make("span", { class: "flag" });
    const handle = Dom.make("div", {
      class: `handle ${side}`, role: "slider", tabindex: "0", "aria-label": `${title}, ${metric.title}`,
      "aria-valuemin": values[0], "aria-valuemax": values.at(-1),
    }, Dom.make("span", { class: "grip", "aria-hidden": "true" }), flag);
    const field = Dom.make("input", {
      type: "number", step: "any", min: metric.stops[0], max: metric.stops.at(-1), placeholder: "off",
      autocomplete: "off", "aria-label": `${title}, ${metric.title}`,
    });
    const told = Dom.make("span", { class: "told" });
    // The button that was pressed goes away; the focus must not go with it.
    const press = (k) => () => {
      put(k);
      handle.focus();
    };
    const off = Dom.button("Clear", press(null), { "aria-label": `Clear: ${title.toLowerCase()}, ${metric.title}` });
    const floor = side === "below" && metric.floor !== null ? values.indexOf(metric.floor) : -1;
    const useFloor = floor < 0 ? null
      : Dom.button(`Use the profile’s floor, ${Dom.minus(metric.stops[floor])}`, press(floor), { class: "use-floor" });
    const box = Dom.make("div", { class: `knob ${side}` },
      Dom.make("label", {}, Dom.make("span", { text: title }), field), told, useFloor, off);

    let typing = false;
    const now = () => Thresholds.of(m)[side];
    const put = (k, held) => Thresholds.set(m, side, k, held);

    const show = () => {
      const k = now();
      const words = k === null ? "off" : metric.stops[k];
      const gone = k === null ? "" : `${Dom.count(metric[side][k])} of ${Dom.count(metric.n_scored)} go`;
      const at = k === null ? (side === "below" ? scale.start : scale.end) : scale.share(values[k]);
      handle.style.setProperty("inset-inline-start", `${100 * at}%`);
      handle.classList.toggle("off", k === null);
      Dom.set(handle, "aria-valuenow", k === null ? (side === "below" ? values[0] : values.at(-1)) : values[k]);
      Dom.set(handle, "aria-valuetext", k === null ? "off" : `${side} ${words}: ${gone}`);
      flag.textContent = k === null ? "" : Dom.minus(words);
      if (!typing) field.value = k === null ? "" : words;
      told.textContent = gone;
      off.disabled = k === null;
      if (useFloor) useFloor.disabled = k === floor;
    };

    const step = (event) => {
      const next = keyed(metric, side, now(), event.key);
      if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      typing = false;
      put(next);
    };
    handle.addEventListener("keydown", step);
    field.addEventListener("keydown", (event) => {
      if (["ArrowUp", "ArrowDown", "PageUp", "PageDown"].includes(event.key)) step(event);
    });
    field.addEventListener("input", () => { typing = true; });
    field.addEventListener("change", () => {
      typing = false;
      put(Number.isNaN(field.valueAsNumber) ? null : nearest(values, field.valueAsNumber));
      show();
    });

    let grabbed = null;
    handle.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const { left, width } = handle.getBoundingClientRect();
      grabbed = event.clientX - (left + width / 2);
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener("pointermove", (event) => {
      if (grabbed === null) return;
      const { left, width } = frame.getBoundingClientRect();
      const k = nearest(values, scale.value((event.clientX - grabbed - left) / width));
      put(metric[side][k] === 0 ? null : k, true);
    });
    const release = () => {
      if (grabbed === null) return;
      grabbed = null;
      Thresholds.settle();
    };
    handle.addEventListener("pointerup", release);
    handle.addEventListener("pointercancel", release);

    return { handle, box, show };
  };

  /** The hatched parts of the chart: what goes on either side. */
  const gone = (m, chart, scale) => {
    const metric = meta.metrics[m];
    const pattern = Dom.svg("pattern", { id: `gone-${m}`, width: 6, height: 6, patternUnits: "userSpaceOnUse",
      patternTransform: "rotate(45)" }, Dom.svg("rect", { class: "gone-ground", width: 6, height: 6 }),
    Dom.svg("rect", { class: "gone-line", width: 3, height: 6 }));
    const parts = Object.fromEntries(SIDES.map((side) =>
      [side, Dom.svg("rect", { fill: `url(#gone-${m})`, y: scale.top, height: scale.base - scale.top })]));
    chart.querySelector(".c-axis").before(Dom.svg("defs", {}, pattern), parts.below, parts.above);
    return () => {
      const { below, above } = Thresholds.of(m);
      const from = below === null ? scale.left : scale.x(Number(metric.stops[below]));
      const to = above === null ? scale.right : scale.x(Number(metric.stops[above]));
      Dom.set(parts.below, "x", scale.left);
      Dom.set(parts.below, "width", from - scale.left);
      Dom.set(parts.above, "x", to);
      Dom.set(parts.above, "width", scale.right - to);
    };
  };

  /** What stays of each task, the most frequent first. */
  const taskTable = () => {
    let whole = false;
    const body = Dom.make("tbody");
    const more = Dom.button("", () => {
      whole = !whole;
      show();
    }, { class: "all-tasks" });
    const about = Dom.make("th", { scope: "col", class: "r" });
    const table = Dom.make("table", { class: "kept-tasks" },
      Dom.make("caption", { class: "sr", text: "Records that stay of each task" }),
      Dom.make("thead", {}, Dom.make("tr", {}, Dom.make("th", { scope: "col", text: "Task" }),
        Dom.make("th", { scope: "col" }, Dom.make("span", { class: "sr", text: "Share" })), about)),
      body);
    const line = ({ label, kept, total }) => {
      const fill = Dom.make("i");
      fill.style.setProperty("inline-size", `${(100 * kept) / Math.max(1, total)}%`);
      return Dom.make("tr", {},
        Dom.make("th", { scope: "row" }, Dom.make("bdi", { text: label })),
        Dom.make("td", {}, Dom.make("span", { class: "meter", "aria-hidden": "true" }, fill)),
        Dom.make("td", { class: "r", text: `${Dom.count(kept)} of ${Dom.count(total)}` }));
    };
    const show = () => {
      const { tasks, tasksExact } = Thresholds.totals();
      about.textContent = tasksExact ? "Stay" : "≈ Stay";
      body.replaceChildren(...tasks.slice(0, whole ? tasks.length : TOP_TASKS).map(line));
      more.hidden = tasks.length <= TOP_TASKS;
      more.textContent = whole ? "Fewer tasks" : `All ${Dom.count(tasks.length)} tasks`;
      Dom.set(more, "aria-expanded", whole);
      table.hidden = tasks.length === 0;
    };
    return { parts: [table, more], show };
  };

  const explorer = (m, chart) => {
    const metric = meta.metrics[m];
    const scale = scaleOf(chart);
    const frame = Dom.make("div", { class: "histo" });
    frame.style.setProperty("--top", `${100 * scale.heights[0]}%`);
    frame.style.setProperty("--base", `${100 * (1 - scale.heights[1])}%`);
    chart.replaceWith(frame);
    frame.append(chart);
    const knobs = Object.fromEntries(SIDES.map((side) => [side, knob(m, side, scale, frame)]));
    const hatch = gone(m, chart, scale);
    const tasks = taskTable();
    const line = Dom.make("p", { class: "live-line" });
    const live = Dom.make("div", { class: "live", hidden: true }, line, ...tasks.parts);
    const board = Dom.make("div", { class: "knobs" });

    for (const side of SIDES) {
      if (!Thresholds.isWorse(m, side)) continue;
      frame.append(knobs[side].handle);
      board.append(knobs[side].box);
    }
    for (const side of SIDES) {
      if (Thresholds.isWorse(m, side)) continue;
      const open = Dom.button(`Drop ${side} as well`, () => {
        open.replaceWith(knobs[side].box);
        frame.append(knobs[side].handle);
        knobs[side].handle.focus();
      }, { class: "tucked", "aria-label": `Drop ${side} as well, ${metric.title}` });
      board.append(open);
    }
    (frame.closest(".plot") ?? frame).after(board, live);

    const showTotals = () => {
      const moved = Thresholds.isMoved(m);
      live.hidden = !moved;
      if (!moved) return;
      const alone = `${Dom.count(Thresholds.single(m))} go by this measurement alone; with every moved threshold `;
      line.replaceChildren(Thresholds.moved().length > 1 ? alone : "", Dom.make("strong", { text: Thresholds.words() }));
      tasks.show();
    };
    const show = () => {
      for (const side of SIDES) knobs[side].show();
      hatch();
      showTotals();
    };
    show();
    return { show, showTotals };
  };

  const start = () => {
    const explorers = new Map();
    meta.metrics.forEach((metric, m) => {
      const chart = document.querySelector(`#${CSS.escape(metric.anchor)} svg.chart[data-low]`);
      const drops = SIDES.some((side) => metric[side].some((n) => n > 0));
      if (chart && drops) explorers.set(m, explorer(m, chart));
    });
    document.addEventListener("vlitqc:thresholds", ({ detail: { metric } }) => {
      for (const [m, one] of explorers) {
        if (metric === null || metric === m) one.show();
        else one.showTotals();
      }
    });
  };

  return { start };
})();
