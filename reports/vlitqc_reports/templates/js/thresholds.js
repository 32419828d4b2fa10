const Thresholds = (() => {
  const SETTLES = 300;
  const NO_TASK = 255;
  const Z = 1.959964;
  const { meta } = Data;

  const at = meta.metrics.map(() => ({ below: null, above: null }));
  const changed = new Set();
  let dropped = null;
  let taskOf = null;
  let storedOf = null;
  let keptOf = null;
  let answer = null;
  let question = 0;
  let timer = 0;

  const isMoved = (m) => at[m].below !== null || at[m].above !== null;

  /** The metrics with a threshold. */
  const moved = () => meta.metrics.map((_, m) => m).filter(isMoved);

  /** Whether this is the side where the metric's values are worse; both are where no end is the better one. */
  const isWorse = (m, side) => {
    const { higher_is_better: higher } = meta.metrics[m];
    return higher === null || (higher ? "below" : "above") === side;
  };

  // A code is odd on a stop and even between two, so that both comparisons are with one number each.
  const limits = ({ below, above }) => [
    below === null ? -1 : 2 * below,
    above === null ? Number.MAX_SAFE_INTEGER : 2 * above + 2,
  ];

  const missing = (codes) => 2 ** (8 * codes.BYTES_PER_ELEMENT) - 1;

  // dropped[i] counts the metrics by which a record goes, so a step of one handle reads one metric only.
  const recount = (m, before, after) => {
    const codes = Data.array(meta.metrics[m].array);
    const none = missing(codes);
    const [low0, high0] = limits(before);
    const [low1, high1] = limits(after);
    for (let i = 0; i < codes.length; i += 1) {
      const code = codes[i];
      if (code === none) continue;
      const was = code <= low0 || code >= high0;
      const is = code <= low1 || code >= high1;
      if (was === is) continue;
      if (is) {
        if (dropped[i] === 0) keptOf[taskOf[i]] -= 1;
        dropped[i] += 1;
      } else {
        dropped[i] -= 1;
        if (dropped[i] === 0) keptOf[taskOf[i]] += 1;
      }
    }
  };

  const move = (m, next) => {
    recount(m, at[m], next);
    at[m] = next;
    answer = null;
    question += 1;
    changed.add(m);
  };

  const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

  /** The thresholds stay as they are for now: galleries, the server and those who listen may follow. */
  const settle = () => {
    clearTimeout(timer);
    const metrics = Array.from(changed);
    if (!metrics.length) return;
    changed.clear();
    tell("vlitqc:settled", { metrics });
    Dom.announce(words());
    if (Data.serving && !meta.stored.exact && moved().length) askServer();
  };

  const follow = (metric, held) => {
    tell("vlitqc:thresholds", { metric });
    clearTimeout(timer);
    if (!held) timer = setTimeout(settle, SETTLES);
  };

  /**
   * Put a metric's threshold on a stop, or off with null. A threshold stops at the one of the other side.
   * While `held`, as in the middle of a drag, nothing settles until `settle` is called.
   */
  const set = (m, side, k, held = false) => {
    const next = { ...at[m], [side]: k };
    if (next.below !== null && next.above !== null && next.below > next.above) {
      next[side] = at[m][side === "below" ? "above" : "below"];
    }
    if (next[side] === at[m][side]) return;
    move(m, next);
    follow(m, held);
  };

  const clear = () => {
    for (const m of moved()) move(m, { below: null, above: null });
    follow(null, false);
  };

  /** Records of the whole run that go by this metric's thresholds alone: a count, never an estimate. */
  const single = (m) => {
    const { below, above } = at[m];
    const metric = meta.metrics[m];
    return (below === null ? 0 : metric.below[below]) + (above === null ? 0 : metric.above[above]);
  };

  /** How many of `whole` stay where `kept` of `drawn` random ones do, with Wilson's 95% interval. */
  const estimate = (kept, drawn, whole) => {
    if (!drawn) return { kept: 0, low: 0, high: whole };
    if (drawn >= whole) return { kept, low: kept, high: kept };
    // Drawn without putting back: as sure as this many draws from a set without end.
    const size = (drawn * (whole - 1)) / (whole - drawn);
    const p = kept / drawn;
    const scale = 1 + (Z * Z) / size;
    const centre = (p + (Z * Z) / (2 * size)) / scale;
    const half = (Z / scale) * Math.sqrt((p * (1 - p)) / size + (Z * Z) / (4 * size * size));
    const low = Math.max(kept, Math.floor(whole * (centre - half)));
    const high = Math.min(whole - (drawn - kept), Math.ceil(whole * (centre + half)));
    return { kept: Math.min(high, Math.max(low, Math.round(whole * p))), low, high };
  };

  const taskTotals = () => {
    if (!meta.tasks.length) return [];
    const named = meta.tasks.map(({ label, n }, t) => ({ label, n, t }));
    const without = meta.n - meta.tasks.reduce((sum, { n }) => sum + n, 0);
    if (without > 0) named.push({ label: "no task", n: without, t: NO_TASK });
    return named.map(({ label, n, t }) => ({ label, total: n, kept: estimate(keptOf[t], storedOf[t], n).kept }));
  };

  /**
   * What stays of the readable records. `exact` is whether `kept` is a count; an estimate from the stored
   * records comes with `low` and `high`, its 95% interval. `tasksExact` is the same for the tasks.
   */
  const totals = () => {
    const base = { unreadable: meta.n_unreadable };
    if (answer) return { ...base, ...answer, exact: true, tasksExact: true };
    const metrics = moved();
    const tasks = taskTotals();
    if (meta.stored.exact || metrics.length === 0) {
      const kept = keptOf.reduce((sum, n) => sum + n, 0);
      const all = meta.stored.exact ? kept : meta.n;
      return { ...base, kept: all, dropped: meta.n - all, exact: true, tasks, tasksExact: true };
    }
    const alone = metrics.map(single);
    const least = Math.max(0, meta.n - alone.reduce((sum, n) => sum + n, 0));
    const most = meta.n - Math.max(...alone);
    const drawn = estimate(keptOf.reduce((sum, n) => sum + n, 0), meta.stored.n, meta.n);
    const within = (value) => Math.min(most, Math.max(least, value));
    const [kept, low, high] = [drawn.kept, drawn.low, drawn.high].map(within);
    const exact = low === high;
    return { ...base, kept, dropped: meta.n - kept, exact, low, high, tasks, tasksExact: false };
  };

  const levels = (side) => Object.fromEntries(
    moved().filter((m) => at[m][side] !== null)
      .map((m) => [meta.metrics[m].name, meta.metrics[m].stops[at[m][side]]]),
  );

  // The last question wins: an answer to an earlier one is thrown away.
  const askServer = async () => {
    const mine = question;
    try {
      const got = await Data.ask("api/count", { below: levels("below"), above: levels("above") });
      if (mine !== question) return;
      answer = got;
      tell("vlitqc:thresholds", { metric: null });
      Dom.announce(words());
    } catch (error) {
      if (mine === question) said.replaceChildren(Dom.text(` · no exact count: ${error.message}`));
    }
  };

  const quoted = (argument) =>
    (/^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\"'\"'")}'`);

  const options = () => moved().flatMap((m) => ["below", "above"]
    .filter((side) => at[m][side] !== null)
    .map((side) => `--drop-${side} ${quoted(`${meta.metrics[m].name}=${meta.metrics[m].stops[at[m][side]]}`)}`));

  /** The command that keeps exactly what the page says. */
  const command = () => [meta.command, ...options()].join(" ");

  /** Kept and dropped in one line. */
  const words = () => {
    const { kept, dropped: gone, unreadable, exact, low, high } = totals();
    const about = exact ? "" : "≈ ";
    const sure = exact ? "" : `, 95% interval ${Dom.count(low)} to ${Dom.count(high)}`;
    return [
      `${about}${Dom.count(kept)} of ${Dom.plural(meta.n, "record")} stay (${Dom.percent(kept, meta.n)}${sure})`,
      `${about}${Dom.count(gone)} go`,
      ...(unreadable ? [`${Dom.count(unreadable)} unreadable`] : []),
    ].join(" · ");
  };

  // The bar at the bottom of the window.
  const sum = Dom.make("p", { class: "moved-sum" });
  const said = Dom.make("span", { class: "quiet" });
  const share = Dom.make("div", { class: "moved-share", "aria-hidden": "true" }, Dom.make("i"));
  const code = Dom.make("code", { tabindex: "0" });
  const bar = Dom.make("section", { class: "moved", id: "thresholds", "aria-label": "Moved thresholds", hidden: true },
    share,
    Dom.make("div", { class: "moved-in" },
      sum,
      Dom.make("div", { class: "moved-command" },
        code,
        Dom.copyButton(() => code.textContent, code),
        Dom.button("Reset", () => {
          clear();
          // The bar goes away and must not take the focus with it.
          document.getElementById("measurements-h").focus({ preventScroll: true });
        }))));
  const printed = Dom.make("p", { class: "moved-print", hidden: true });

  const show = () => {
    const any = moved().length > 0;
    bar.hidden = !any;
    printed.hidden = !any;
    document.documentElement.classList.toggle("has-moved", any);
    if (!any) return;
    const { kept } = totals();
    sum.replaceChildren(Dom.text(words()), said);
    said.replaceChildren();
    // A line breaks between two options, not within one.
    code.replaceChildren(meta.command, ...options().flatMap((one) => [" ", Dom.make("span", { text: one })]));
    share.firstChild.style.setProperty("inline-size", `${(100 * kept) / Math.max(1, meta.n)}%`);
    printed.replaceChildren(Dom.text(`With the thresholds set on this page: ${words()}.`), " ",
      Dom.make("code", { text: command() }));
  };

  const start = () => {
    dropped = new Uint8Array(Data.n);
    taskOf = Data.array("task");
    storedOf = new Int32Array(NO_TASK + 1);
    for (const task of taskOf) storedOf[task] += 1;
    keptOf = storedOf.slice();
    document.body.append(bar);
    document.querySelector("#verdict .verdict")?.after(printed);
    // What has the focus must not hide behind the bar, however many lines the command needs.
    new ResizeObserver(() => {
      document.documentElement.style.setProperty("--moved", `${bar.offsetHeight}px`);
    }).observe(bar);
    document.addEventListener("vlitqc:thresholds", show);
  };

  return {
    start, set, settle, clear, single, totals, command, words, moved, isMoved, isWorse,
    of: (m) => ({ ...at[m] }),
    get dropped() { return dropped; },
  };
})();
