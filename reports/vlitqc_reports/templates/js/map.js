const ScatterMap = (() => {
  const { meta } = Data;
  const COLOURED = 7;
  const SCALE = 6;
  const NONE = 65535;
  const NOISE = 65534;
  const PADDING = 16;
  const MOST_ZOOM = 400;
  const NEAR = 14;
  const SIDE = 65535;
  const FIRST_WORDS = 120;
  const REST = 220;

  // ---------------------------------------------------------------- what colours say

  /**
   * A colouring gives each stored place one of `entries`: { label, colour (a variable of the style), n }. Groups that
   * have a name elsewhere in the page carry it as `key`.
   */
  const counted = (name, entries, classOf) => {
    for (const entry of entries) entry.n = 0;
    for (const one of classOf) entries[one].n += 1;
    entries.forEach((entry, i) => { entry.key ??= `${name}:${i}`; });
    return { entries, classOf };
  };

  const byTask = () => {
    const codes = Data.array("task");
    const named = meta.tasks.map(({ label }) => label);
    const first = Math.min(COLOURED, named.length);
    const entries = named.slice(0, first).map((label, i) => ({ label, colour: `--map-${i + 1}` }));
    const other = entries.push({ label: "other tasks", colour: "--map-grey" }) - 1;
    const none = entries.push({ label: "no task", colour: "--map-faint" }) - 1;
    return counted("task", entries, codes.map((task) => (task >= named.length ? none : Math.min(task, other))));
  };

  const byCluster = (clustering) => {
    const codes = Data.array(clustering.array);
    const first = Math.min(COLOURED, clustering.top.length);
    const entries = clustering.top.slice(0, first).map((cluster, i) => ({
      label: Groups.title(cluster), colour: `--map-${i + 1}`, key: `${clustering.array}:${i}`,
    }));
    const other = entries.push({ label: "smaller clusters", colour: "--map-grey" }) - 1;
    const noise = entries.push({ label: "in no cluster", colour: "--map-faint" }) - 1;
    const none = entries.push({ label: "not clustered", colour: "--map-faint" }) - 1;
    const classOf = (code) => (code === NONE ? none : code === NOISE ? noise : Math.min(code, other));
    return counted(clustering.array, entries, Uint8Array.from(codes, classOf));
  };

  // Classes of about equal size whose borders are stops, so that their numbers are exact.
  const byMetric = (metric) => {
    const codes = Data.array(metric.array);
    const missing = 2 ** (8 * codes.BYTES_PER_ELEMENT) - 1;
    const sorted = codes.filter((code) => code !== missing).sort();
    const last = metric.stops.length - 1;
    const at = (share) => Math.min(last, sorted[Math.floor(share * sorted.length)] >> 1);
    const borders = sorted.length && last >= 0
      ? Array.from(new Set(Array.from({ length: SCALE - 1 }, (_, j) => at((j + 1) / SCALE)))) : [];
    const classOfCode = (code) =>
      (code === missing ? borders.length + 1 : borders.filter((k) => code > 2 * k).length);
    const words = borders.map((k) => Dom.number(Number(metric.stops[k])));
    const entries = Array.from({ length: borders.length + 1 }, (_, j) => ({
      label: !borders.length ? "any value" : j === 0 ? `below ${words[0]}`
        : j === borders.length ? `${words[j - 1]} and more` : `${words[j - 1]} to ${words[j]}`,
      colour: `--map-scale-${1 + Math.round((j * (SCALE - 1)) / Math.max(1, borders.length))}`,
    }));
    entries.push({ label: "no value", colour: "--map-faint" });
    const table = new Map();
    const classOf = (code) => {
      if (!table.has(code)) table.set(code, classOfCode(code));
      return table.get(code);
    };
    return counted(metric.array, entries, Uint8Array.from(codes, classOf));
  };

  const byThresholds = () => counted("thresholds", [
    { label: "stays", colour: "--map-1" },
    { label: "goes", colour: "--map-6" },
  ], Thresholds.dropped.map((times) => Math.min(1, times)));

  const colourings = () => [
    ...(Data.array("task") ? [{ name: "task", title: "Task", make: byTask }] : []),
    ...meta.clusters.map((clustering) => ({
      name: clustering.array, title: `Clusters of ${clustering.title.toLowerCase()}`, make: () => byCluster(clustering),
    })),
    { name: "thresholds", title: "What goes by your thresholds", make: byThresholds },
    ...meta.metrics.map((metric) => ({ name: metric.array, title: metric.title, make: () => byMetric(metric) })),
  ];

  // ---------------------------------------------------------------- two ways to draw points

  // Libraries for this build functions from text, which the page's policy forbids; it is one draw call.
  const VERTEX = `#version 300 es
    in vec2 at; in vec4 colour; uniform vec4 view; uniform float size; out vec4 ink;
    void main() {
      gl_Position = vec4(at * view.xy + view.zw, 0.0, 1.0);
      gl_PointSize = size;
      ink = colour;
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    uniform float size; in vec4 ink; out vec4 shown;
    void main() {
      float from = length(gl_PointCoord - 0.5) * size;
      float alpha = ink.a * clamp(size * 0.5 - from + 0.5, 0.0, 1.0);
      float rim = size > 7.0 ? smoothstep(size * 0.5 - 2.0, size * 0.5 - 1.0, from) : 0.0;
      shown = vec4(ink.rgb * mix(1.0, 0.62, rim) * alpha, alpha);
    }`;

  const shader = (gl, type, source) => {
    const made = gl.createShader(type);
    gl.shaderSource(made, source);
    gl.compileShader(made);
    return made;
  };

  const onGraphicsCard = (canvas, redraw) => {
    // Kept after drawing, so that it can be printed.
    const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (!gl) return null;
    let program = null;
    let buffers = null;
    let points = null;
    let inks = null;

    const set = () => {
      program = gl.createProgram();
      gl.attachShader(program, shader(gl, gl.VERTEX_SHADER, VERTEX));
      gl.attachShader(program, shader(gl, gl.FRAGMENT_SHADER, FRAGMENT));
      gl.linkProgram(program);
      if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return gl.isContextLost();
      gl.useProgram(program);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      buffers = { at: gl.createBuffer(), colour: gl.createBuffer(), order: gl.createBuffer() };
      return true;
    };

    const attribute = (name, size, type) => {
      const where = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(where);
      gl.vertexAttribPointer(where, size, type, true, 0, 0);
    };

    const place = (at) => {
      points = at;
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers.at);
      gl.bufferData(gl.ARRAY_BUFFER, at, gl.STATIC_DRAW);
      attribute("at", 2, gl.UNSIGNED_SHORT);
    };

    const ink = (colours, order) => {
      inks = [colours, order];
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers.colour);
      gl.bufferData(gl.ARRAY_BUFFER, colours, gl.DYNAMIC_DRAW);
      attribute("colour", 4, gl.UNSIGNED_BYTE);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers.order);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
    };

    const draw = ({ scale, left, top, width, height, size }) => {
      gl.viewport(0, 0, width, height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform4f(gl.getUniformLocation(program, "view"), (2 * scale) / width, (2 * scale) / height,
        (2 * left) / width - 1, 1 - (2 * (top + scale)) / height);
      gl.uniform1f(gl.getUniformLocation(program, "size"), size);
      gl.drawElements(gl.POINTS, inks[1].length, gl.UNSIGNED_INT, 0);
    };

    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      set();
      place(points);
      ink(...inks);
      redraw();
    });
    return set() ? { place, ink, draw } : null;
  };

  const onCanvas = (canvas) => {
    const context = canvas.getContext("2d");
    let points = null;
    let inks = null;

    const disc = (size) => {
      const radius = size / 2;
      const steps = [];
      for (let y = -Math.ceil(radius); y <= radius; y += 1) {
        for (let x = -Math.ceil(radius); x <= radius; x += 1) {
          const cover = Math.min(1, radius - Math.hypot(x, y) + 0.5);
          if (cover > 0) steps.push([x, y, cover]);
        }
      }
      return steps;
    };

    const draw = ({ scale, left, top, width, height, size }) => {
      const [colours, order] = inks;
      const image = context.createImageData(width, height);
      const { data } = image;
      const steps = disc(size);
      for (const i of order) {
        const px = Math.round(left + (points[2 * i] / SIDE) * scale);
        const py = Math.round(top + (1 - points[2 * i + 1] / SIDE) * scale);
        for (const [dx, dy, cover] of steps) {
          const x = px + dx;
          const y = py + dy;
          if (x < 0 || y < 0 || x >= width || y >= height) continue;
          const at = 4 * (y * width + x);
          const under = data[at + 3] / 255;
          const over = (colours[4 * i + 3] / 255) * cover;
          const both = over + under * (1 - over);
          for (let k = 0; k < 3; k += 1) {
            data[at + k] = (colours[4 * i + k] * over + data[at + k] * under * (1 - over)) / both;
          }
          data[at + 3] = 255 * both;
        }
      }
      context.putImageData(image, 0, 0);
    };

    return {
      place: (at) => { points = at; },
      ink: (colours, order) => { inks = [colours, order]; },
      draw,
    };
  };

  // ---------------------------------------------------------------- the state of the map

  const style = () => getComputedStyle(document.documentElement);
  const made = new Map();
  const view = { zoom: 1, x: 0.5, y: 0.5 };
  let known = [];
  let shown = null; // the map of meta.maps, with its arrays
  let colouring = null;
  let mode = "pan";
  let renderer = null;
  let asked = 0;
  let seen = false;
  let stale = { points: true, inks: true };
  let parts = null;
  let under = null;

  const placeOf = (i) => (shown.index ? shown.index[i] : i);

  /** The side of the square of all points on the screen, and where it lies, in CSS pixels. */
  const frame = () => {
    const { clientWidth: width, clientHeight: height } = parts.plot;
    const scale = (Math.min(width, height) - 2 * PADDING) * view.zoom;
    return { width, height, scale, left: width / 2 - view.x * scale, top: height / 2 - (1 - view.y) * scale };
  };

  const screen = (i, { scale, left, top }) =>
    [left + (shown.x[i] / SIDE) * scale, top + (1 - shown.y[i] / SIDE) * scale];

  const pointSize = () => {
    const base = shown.n < 500 ? 10 : shown.n < 5000 ? 7 : shown.n < 30000 ? 4.5 : 3;
    return Math.min(16, base * view.zoom ** 0.3);
  };

  const hex = (colour) => [1, 3, 5].map((k) => Number.parseInt(colour.slice(k, k + 2), 16));

  const inks = () => {
    const css = style();
    const { entries, classOf } = current();
    const colours = entries.map(({ colour }) => hex(css.getPropertyValue(colour).trim()));
    const faint = hex(css.getPropertyValue("--map-faint").trim());
    const strong = shown.n < 5000 ? 240 : 200;
    const { rows } = Selection;
    const rgba = new Uint8Array(4 * shown.n);
    const behind = [];
    const before = [];
    for (let i = 0; i < shown.n; i += 1) {
      const place = placeOf(i);
      const one = classOf[place];
      const bright = rows === null ? entries[one].colour !== "--map-faint" : rows.has(Data.row(place));
      rgba.set(rows === null || bright ? colours[one] : faint, 4 * i);
      rgba[4 * i + 3] = bright ? strong : rows === null ? strong * 0.7 : 90;
      (bright ? before : behind).push(i);
    }
    return [rgba, Uint32Array.from([...behind, ...before])];
  };

  const current = () => {
    if (colouring.name === "thresholds") return byThresholds();
    if (!made.has(colouring.name)) made.set(colouring.name, colouring.make());
    return made.get(colouring.name);
  };

  const draw = () => {
    asked = 0;
    renderer ??= newRenderer();
    if (stale.points) {
      const at = new Uint16Array(2 * shown.n);
      for (let i = 0; i < shown.n; i += 1) at.set([shown.x[i], shown.y[i]], 2 * i);
      renderer.place(at);
    }
    if (stale.inks) renderer.ink(...inks());
    stale = { points: false, inks: false };
    const ratio = window.devicePixelRatio || 1;
    const { width, height, scale, left, top } = frame();
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (parts.canvas.width !== w || parts.canvas.height !== h) Object.assign(parts.canvas, { width: w, height: h });
    renderer.draw({
      scale: scale * ratio, left: left * ratio, top: top * ratio, width: w, height: h, size: pointSize() * ratio,
    });
    parts.plot.dataset.drawn = String(shown.n);
    ring();
  };

  const newRenderer = () => {
    const found = onGraphicsCard(parts.canvas, refresh);
    if (found) return found;
    // A canvas that has had one kind of context never gets another.
    const fresh = parts.canvas.cloneNode();
    parts.canvas.replaceWith(fresh);
    parts.canvas = fresh;
    return onCanvas(fresh);
  };

  /** Draw again before the next frame, if the map can be seen. */
  const refresh = (what = {}) => {
    stale = { points: stale.points || Boolean(what.points), inks: stale.inks || Boolean(what.inks) };
    if (seen && !asked) asked = requestAnimationFrame(draw);
  };

  const zoomBy = (factor, [px, py] = [parts.plot.clientWidth / 2, parts.plot.clientHeight / 2]) => {
    const { scale, left, top } = frame();
    const [x, y] = [(px - left) / scale, 1 - (py - top) / scale];
    const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
    const kept = view.zoom / zoom;
    Object.assign(view, { zoom, x: x + (view.x - x) * kept, y: y + (view.y - y) * kept });
    inside();
    refresh();
  };

  const panBy = (dx, dy) => {
    const { scale } = frame();
    view.x -= dx / scale;
    view.y += dy / scale;
    inside();
    refresh();
  };

  const inside = () => {
    view.x = Math.min(1, Math.max(0, view.x));
    view.y = Math.min(1, Math.max(0, view.y));
  };

  const whole = () => {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
    refresh();
  };

  // ---------------------------------------------------------------- selecting

  const rowsWhere = (holds) => {
    const rows = [];
    const at = frame();
    for (let i = 0; i < shown.n; i += 1) if (holds(...screen(i, at))) rows.push(Data.row(placeOf(i)));
    return rows;
  };

  const inPolygon = (path) => (x, y) => {
    let within = false;
    for (let i = 0, j = path.length - 1; i < path.length; j = i, i += 1) {
      const [ax, ay] = path[i];
      const [bx, by] = path[j];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
    }
    return within;
  };

  const inBox = ([[ax, ay], [bx, by]]) => (x, y) =>
    x >= Math.min(ax, bx) && x <= Math.max(ax, bx) && y >= Math.min(ay, by) && y <= Math.max(ay, by);

  const take = (rows, words, add) => {
    const kept = add && Selection.rows ? [...Selection.rows] : [];
    Selection.set(rows.length + kept.length ? [...kept, ...rows] : null, words);
  };

  const selectEntry = (index, add) => {
    const { entries, classOf } = current();
    const { label, key } = entries[index];
    const rows = [];
    for (let place = 0; place < classOf.length; place += 1) if (classOf[place] === index) rows.push(Data.row(place));
    Selection.toggle(rows, `${colouring.title}: ${label}`, key, add);
  };

  // ---------------------------------------------------------------- the point under the pointer

  const nearest = ([px, py]) => {
    const at = frame();
    let best = -1;
    let least = NEAR ** 2;
    for (let i = 0; i < shown.n; i += 1) {
      const [x, y] = screen(i, at);
      const far = (x - px) ** 2 + (y - py) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  };

  const ring = () => {
    Dom.set(parts.ring, "visibility", under === null ? "hidden" : "visible");
    if (under === null) return;
    const at = frame();
    const [x, y] = screen(under, at);
    Dom.set(parts.ring, "cx", x);
    Dom.set(parts.ring, "cy", y);
    Dom.set(parts.ring, "r", pointSize() / 2 + 4);
  };

  const firstWords = (card) => {
    const [asked, answered] = card.turns[0] ?? [];
    const said = answered || asked || card.fault || "";
    // No half a character and no half a badge at the end.
    const first = said.slice(0, FIRST_WORDS).replace(/[\ud800-\udbff]$|\x01[^\x02]*$/, "");
    return first.length < said.length ? `${first}…` : said;
  };

  const tip = async (i) => {
    under = i < 0 ? null : i;
    ring();
    parts.tip.hidden = under === null;
    if (under === null) return;
    const place = placeOf(i);
    const row = Data.row(place);
    const task = meta.tasks[Data.array("task")?.[place]]?.label;
    const { entries, classOf } = current();
    const facts = [`row ${Dom.count(row)}`, task, colouring.name === "task" ? null : entries[classOf[place]].label];
    const lines = (card) => parts.tip.replaceChildren(...[
      card?.id ? Dom.make("strong", {}, Dom.make("bdi", { text: card.id })) : null,
      Dom.make("span", { class: "quiet" }, Dom.make("bdi", { text: facts.filter(Boolean).join(" · ") })),
      card ? Dom.make("span", { class: "map-words", dir: "auto", text: firstWords(card) }) : null,
    ].filter(Boolean));
    lines(null);
    const at = frame();
    const [x, y] = screen(i, at);
    parts.tip.classList.toggle("to-left", x > at.width / 2);
    parts.tip.classList.toggle("to-top", y > at.height / 2);
    parts.tip.style.setProperty("inset-inline-start", `${x}px`);
    parts.tip.style.setProperty("inset-block-start", `${y}px`);
    if (!Data.hasCard(row)) return;
    if (Data.serving) await new Promise((done) => { setTimeout(done, REST); });
    if (under !== i) return;
    const [card] = await Data.cards([row]);
    if (under === i) lines(card);
  };

  // ---------------------------------------------------------------- pointers, wheel and keys

  const listen = () => {
    const { plot } = parts;
    const fingers = new Map();
    let path = null;
    let moved = false;
    let hovering = 0;
    const where = (event) => {
      const box = plot.getBoundingClientRect();
      return [event.clientX - box.left - plot.clientLeft, event.clientY - box.top - plot.clientTop];
    };
    const spread = () => {
      const [[ax, ay], [bx, by]] = fingers.values();
      return { far: Math.hypot(ax - bx, ay - by), middle: [(ax + bx) / 2, (ay + by) / 2] };
    };
    const outline = () => {
      const [[ax, ay], [bx, by]] = [path[0], path[path.length - 1]];
      const corners = mode === "box" ? [[ax, ay], [bx, ay], [bx, by], [ax, by]] : path;
      Dom.set(parts.outline, "d", `M${corners.map((corner) => corner.map((v) => v.toFixed(1)).join(" ")).join("L")}Z`);
    };
    const finish = (event) => {
      const [first, last] = [path[0], path[path.length - 1]];
      if (!moved) {
        const i = nearest(last);
        take(i < 0 ? [] : [Data.row(placeOf(i))], "One point of the map", event.shiftKey);
      } else if (mode === "box") {
        take(rowsWhere(inBox([first, last])), `A box on the map of ${shown.title.toLowerCase()}`, event.shiftKey);
      } else if (mode === "lasso") {
        take(rowsWhere(inPolygon(path)), `A lasso on the map of ${shown.title.toLowerCase()}`, event.shiftKey);
      }
    };
    const release = (event) => {
      fingers.delete(event.pointerId);
      if (path && event.type === "pointerup") finish(event);
      path = null;
      Dom.set(parts.outline, "d", null);
      plot.classList.remove("is-held");
    };

    plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      plot.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, where(event));
      path = fingers.size === 1 ? [where(event)] : null;
      moved = false;
      plot.classList.add("is-held");
      tip(-1);
    });
    plot.addEventListener("pointermove", (event) => {
      const at = where(event);
      if (!fingers.has(event.pointerId)) {
        cancelAnimationFrame(hovering);
        hovering = requestAnimationFrame(() => tip(nearest(at)));
        return;
      }
      const before = fingers.get(event.pointerId);
      if (fingers.size === 2) {
        const was = spread();
        fingers.set(event.pointerId, at);
        const is = spread();
        panBy(is.middle[0] - was.middle[0], is.middle[1] - was.middle[1]);
        zoomBy(is.far / Math.max(1, was.far), is.middle);
        return;
      }
      if (!path) return;
      moved ||= Math.hypot(at[0] - path[0][0], at[1] - path[0][1]) > 3;
      fingers.set(event.pointerId, at);
      if (!moved) return;
      if (mode === "pan") {
        panBy(at[0] - before[0], at[1] - before[1]);
        return;
      }
      path.push(at);
      outline();
    });
    plot.addEventListener("pointerup", release);
    plot.addEventListener("pointercancel", release);
    plot.addEventListener("pointerleave", () => {
      cancelAnimationFrame(hovering);
      tip(-1);
    });
    // The wheel scrolls the page unless the map was asked for.
    plot.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== plot) return;
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
      zoomBy(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)), where(event));
    }, { passive: false });
    plot.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [48, 0], ArrowRight: [-48, 0], ArrowUp: [0, 48], ArrowDown: [0, -48] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (steps[event.key]) panBy(...steps[event.key]);
      else if (event.key === "+" || event.key === "=") zoomBy(1.4);
      else if (event.key === "-") zoomBy(1 / 1.4);
      else if (event.key === "0") whole();
      else if (event.key === "Escape" && under !== null) tip(-1);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  };

  // ---------------------------------------------------------------- what stands around the plot

  /** Buttons of which one is on. */
  const choice = (label, options, act) => {
    const buttons = options.map(([name, title]) => Dom.button(title, () => act(name), { "data-name": name }));
    const group = Dom.make("div", { class: "map-choice", role: "group", "aria-label": label }, ...buttons);
    const mark = (chosen) => {
      for (const button of buttons) Dom.set(button, "aria-pressed", button.dataset.name === chosen);
    };
    return { group, mark };
  };

  const legend = () => {
    const { entries } = current();
    parts.legendTitle.replaceChildren(Dom.text(colouring.title));
    parts.legend.replaceChildren(...entries.map(({ label, colour, n, key }, i) => {
      const swatch = Dom.make("i", { class: "map-swatch" });
      swatch.style.setProperty("background", `var(${colour})`);
      return n === 0 ? null : Dom.make("li", {}, Dom.make("button", {
        type: "button", "aria-pressed": Selection.key === key,
        on: { click: (event) => selectEntry(i, event.shiftKey) },
      }, swatch, Dom.make("bdi", { text: label }), Dom.make("span", { class: "n", text: Dom.count(n) })));
    }).filter(Boolean));
  };

  const markLegend = () => {
    const { entries } = current();
    const left = entries.filter(({ n }) => n > 0);
    Dom.all("button", parts.legend).forEach((button, i) => {
      Dom.set(button, "aria-pressed", Selection.key === left[i].key);
    });
  };

  const about = () => {
    const { method, explained, note, n } = shown;
    const axes = explained
      ? `${method}: the two axes hold ${explained.map((share) => Dom.percent(share, 1)).join(" and ")} of the variance, `
        + "so that points far apart differ, and points close together may."
      : `${method}: points close together are alike; distances between groups say little.`;
    return `${Dom.plural(n, "point")}. ${axes}${note ? ` ${note}.` : ""}`;
  };

  const setMap = (name) => {
    const map = meta.maps.find((one) => one.name === name);
    shown = {
      ...map, x: Data.array(map.x), y: Data.array(map.y), index: map.index ? Data.array(map.index) : null,
    };
    parts.maps.mark(name);
    parts.note.replaceChildren(Dom.text(about()));
    Dom.set(parts.plot, "aria-label", `Map of ${shown.title.toLowerCase()}, ${Dom.plural(shown.n, "point")}. `
      + "Arrow keys move it, plus and minus zoom, 0 shows the whole. The legend's buttons select points.");
    tip(-1);
    whole();
    refresh({ points: true, inks: true });
  };

  const setColouring = (name) => {
    colouring = known.find((one) => one.name === name);
    parts.colour.value = name;
    legend();
    refresh({ inks: true });
  };

  const setMode = (name) => {
    mode = name;
    parts.plot.dataset.mode = name;
    parts.modes.mark(name);
  };

  const build = (room) => {
    const canvas = Dom.make("canvas", { "aria-hidden": "true" });
    const outline = Dom.svg("path", { class: "map-outline" });
    const mark = Dom.svg("circle", { class: "map-ring", visibility: "hidden" });
    const over = Dom.svg("svg", { class: "map-over", "aria-hidden": "true" }, outline, mark);
    const hint = Dom.make("div", { class: "map-tip", "aria-hidden": "true", hidden: true });
    const plot = Dom.make("div", { class: "map-plot", tabindex: "0", role: "group" }, canvas, over, hint);
    const maps = choice("Map of", meta.maps.map(({ name, title }) => [name, title]), setMap);
    const modes = choice("The pointer", [["pan", "Move"], ["box", "Box"], ["lasso", "Lasso"]], setMode);
    const colour = Dom.make("select", { on: { change: () => setColouring(colour.value) } },
      ...known.map(({ name, title }) => Dom.make("option", { value: name, text: title })));
    const zoom = Dom.make("div", { class: "map-choice", role: "group", "aria-label": "Zoom" },
      Dom.button("+", () => zoomBy(1.6), { "aria-label": "Zoom in" }),
      Dom.button("−", () => zoomBy(1 / 1.6), { "aria-label": "Zoom out" }),
      Dom.button("Whole map", whole));
    const legendTitle = Dom.make("h3", { id: "map-legend" });
    const list = Dom.make("ul", { "aria-labelledby": "map-legend" });
    const note = Dom.make("p", { class: "quiet map-note" });
    parts = { canvas, outline, ring: mark, tip: hint, plot, maps, modes, colour, legendTitle, legend: list, note };
    room.append(
      Dom.make("div", { class: "map-tools" },
        meta.maps.length > 1 ? maps.group : null,
        Dom.make("label", {}, "Colour ", colour),
        modes.group, zoom),
      Dom.make("div", { class: "map-frame" }, plot,
        Dom.make("div", { class: "map-legend" }, legendTitle, list,
          Dom.make("p", { class: "quiet", text: "A click on an entry selects it; with Shift it is added." }))),
      note);
  };

  /** Show a clustering's colours on the map that it was made from. */
  const show = (clustering) => {
    if (!shown) return;
    const own = meta.maps.find(({ title }) => title === clustering.title);
    if (own && own.name !== shown.name) setMap(own.name);
    setColouring(clustering.array);
    parts.plot.scrollIntoView({ block: "nearest" });
  };

  const start = () => {
    const room = document.getElementById("map-plot");
    if (!meta.maps.length) {
      room.append(Dom.make("p", { class: "quiet", text: "There is no map: none was asked for, or the run holds no vectors." }));
      return;
    }
    known = colourings();
    build(room);
    setMap(meta.maps[0].name);
    setColouring(known[0].name);
    setMode("box");
    listen();
    new ResizeObserver(() => refresh()).observe(parts.plot);
    new IntersectionObserver(([{ isIntersecting }]) => {
      seen = isIntersecting;
      if (seen) refresh();
    }, { rootMargin: "50%" }).observe(parts.plot);
    const recolour = () => refresh({ inks: true });
    const printing = (on) => {
      document.documentElement.classList.toggle("printing", on);
      stale.inks = true;
      draw();
    };
    window.addEventListener("beforeprint", () => printing(true));
    window.addEventListener("afterprint", () => printing(false));
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    document.addEventListener("vlitqc:selection", () => {
      markLegend();
      recolour();
    });
    document.addEventListener("vlitqc:thresholds", () => {
      if (colouring.name !== "thresholds") return;
      legend();
      recolour();
    });
  };

  return { start, show, get canvas() { return parts.canvas; } };
})();
