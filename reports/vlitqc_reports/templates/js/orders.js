const Orders = (() => {
  const FIRST = 4;
  const TAIL = 0.05;
  const { meta } = Data;

  /** The side where values are worse; the lower one where no side is better. */
  const worseSide = (m) => (Thresholds.isWorse(m, "below") ? "below" : "above");

  const isBeyond = (value, side, stop) => (side === "below" ? value < stop : value > stop);

  /** Where closest calls are looked for: the metric's threshold, else its floor, else the tail of its worse side. */
  const turn = (m) => {
    const metric = meta.metrics[m];
    const set = Thresholds.of(m);
    const point = (side, k, words, tags = null) =>
      ({ side, stop: Number(metric.stops[k]), text: metric.stops[k], words, tags });
    const worse = worseSide(m);
    for (const side of [worse, worse === "below" ? "above" : "below"]) {
      if (set[side] !== null) return point(side, set[side], "the threshold");
    }
    const floor = metric.floor === null ? -1 : metric.stops.findIndex((stop) => Number(stop) === metric.floor);
    if (floor >= 0) return point("below", floor, "the profile’s floor", ["below the floor", "above the floor"]);
    const wanted = TAIL * metric.n_scored;
    const away = metric[worse].map((n) => (n ? Math.abs(n - wanted) : Infinity));
    const k = away.indexOf(Math.min(...away));
    const end = metric.higher_is_better === null ? "lowest" : "worst";
    return point(worse, k, `the ${Dom.percent(metric[worse][k], metric.n_scored)} that score ${end}`);
  };

  const goes = (m, value) => {
    const set = Thresholds.of(m);
    return ["below", "above"].some((side) =>
      set[side] !== null && isBeyond(value, side, Number(meta.metrics[m].stops[set[side]])));
  };

  /** Rows and values of the metric among the records with cards, ascending. */
  const known = async (m) => {
    const { name } = meta.metrics[m];
    return (await Data.cards(Data.cardRows()))
      .filter((card) => Object.hasOwn(card.values, name))
      .map((card) => ({ row: card.row, value: card.values[name] }))
      .sort((a, b) => a.value - b.value || a.row - b.row);
  };

  const inTurn = (first, second) => {
    const both = [];
    for (let i = 0; i < Math.max(first.length, second.length); i += 1) {
      if (i < first.length) both.push(first[i]);
      if (i < second.length) both.push(second[i]);
    }
    return both;
  };

  const byDistance = (records, stop) =>
    records.toSorted((a, b) => Math.abs(a.value - stop) - Math.abs(b.value - stop));

  // Of the records in this page. A server has them all, and its own order.
  const stored = {
    closest: (m, records) => {
      const { side, stop } = turn(m);
      const gone = records.filter(({ value }) => isBeyond(value, side, stop));
      const left = records.filter(({ value }) => !isBeyond(value, side, stop));
      return inTurn(byDistance(gone, stop), byDistance(left, stop));
    },
    lowest: (m, records) => records,
    highest: (m, records) => records.toReversed(),
    dropped: (m, records) => {
      const gone = records.filter(({ value }) => goes(m, value));
      return worseSide(m) === "below" ? gone : gone.reverse();
    },
  };

  const fromServer = (m, order, side, at, offset, limit) => {
    const asked = new URLSearchParams({ metric: meta.metrics[m].name, order, side, offset, limit });
    if (at !== null) asked.set("at", at);
    return Data.ask(`api/order?${asked}`);
  };

  const served = {
    closest: (m, offset, limit) => {
      const { side, text } = turn(m);
      return fromServer(m, "closest", side, text, offset, limit);
    },
    lowest: (m, offset, limit) => fromServer(m, "worst", "below", null, offset, limit),
    highest: (m, offset, limit) => fromServer(m, "worst", "above", null, offset, limit),
    // The server knows one side at a time: the records of the other one follow.
    dropped: async (m, offset, limit) => {
      const { stops } = meta.metrics[m];
      const set = Thresholds.of(m);
      const rows = [];
      let total = 0;
      for (const side of ["below", "above"]) {
        if (set[side] === null) continue;
        const from = Math.max(0, offset - total);
        const got = await fromServer(m, "dropped", side, stops[set[side]], from, limit - rows.length);
        rows.push(...got.rows);
        total += got.total;
      }
      return { rows, total };
    },
  };

  const ordersOf = (metric) => ({
    closest: "Closest calls",
    ...(metric.higher_is_better === null
      ? { lowest: "Lowest", highest: "Highest" }
      : { [metric.higher_is_better ? "lowest" : "highest"]: "Worst" }),
    dropped: "All that would go",
  });

  /** " of the 640 records shown in this page of 200,000", where that is less than all. */
  const among = () => {
    const shown = Data.cardRows().length;
    if (Data.serving || shown >= meta.n) return "";
    return ` of the ${Dom.plural(shown, "record")} shown in this page of ${Dom.count(meta.n)}`;
  };

  /** What an order shows, in words. */
  const words = (m, order) => {
    const rest = among();
    if (order === "closest") {
      const { side, text, words: point } = turn(m);
      return `On both sides of ${point}, ${side} ${Dom.minus(text)}${rest && `: closest${rest}`}`;
    }
    if (order === "dropped") {
      if (!Thresholds.isMoved(m)) return "No threshold is set";
      const n = Thresholds.single(m);
      return `${Dom.plural(n, "record")} ${n === 1 ? "goes" : "go"} by this measurement${rest && `; here are those${rest}`}`;
    }
    return `${order === "lowest" ? "Lowest" : "Highest"} score first${rest && `,${rest}`}`;
  };

  /** What a card's value means for it: it goes or stays by a threshold that is set, or lies beside the floor. */
  const label = (m, order, card) => {
    const value = card.values[meta.metrics[m].name];
    if (Thresholds.isMoved(m)) {
      return goes(m, value) ? { text: "would go", kind: "goes" } : { text: "would stay", kind: "stays" };
    }
    const { side, stop, tags } = turn(m);
    return tags && order === "closest" ? tags[isBeyond(value, side, stop) ? 0 : 1] : null;
  };

  const page = async (m, order, offset, limit) => {
    if (Data.serving) return served[order](m, offset, limit);
    const rows = stored[order](m, await known(m)).map(({ row }) => row);
    return { rows: rows.slice(offset, offset + limit), total: rows.length };
  };

  /** The records of a metric in the order that `order()` names, for Cards.gallery. */
  const source = (m, order) => ({
    page(offset, limit) {
      if (order() === "dropped" && !Thresholds.isMoved(m)) return { rows: [], total: 0 };
      return page(m, order(), offset, limit);
    },
    label: (card) => label(m, order(), card),
  });

  /** The samples of one metric with the choice of their order. */
  const gallery = (m) => {
    const metric = meta.metrics[m];
    let order = "closest";
    const choices = Object.entries(ordersOf(metric)).map(([key, title]) => [key, Dom.button(title, () => {
      order = key;
      refresh();
    })]);
    const caption = Dom.make("p", { class: "quiet" });
    const list = Dom.make("div");
    const place = Dom.make("div", { class: "samples", id: `${metric.anchor}-samples` },
      Dom.make("div", { class: "samples-head" },
        Dom.make("div", { class: "segments", role: "group", "aria-label": `Which samples, ${metric.title}` },
          choices.map(([, button]) => button)),
        caption),
      list);
    const cards = Cards.gallery(list, source(m, () => order), {
      title: `Samples, ${metric.title}`, first: FIRST, brief: true, metric: metric.name, empty: "Nothing would go by this measurement.",
    });
    const describe = () => {
      for (const [key, button] of choices) Dom.set(button, "aria-pressed", key === order);
      caption.replaceChildren(Dom.text(words(m, order)));
    };
    const refresh = () => {
      describe();
      cards.refresh();
    };
    describe();
    return { place, refresh };
  };

  const start = () => {
    const galleries = meta.metrics.map((metric, m) => {
      const made = gallery(m);
      document.getElementById(metric.anchor)?.append(made.place);
      return made;
    });
    document.addEventListener("vlitqc:settled", ({ detail: { metrics } }) => {
      for (const m of metrics) galleries[m].refresh();
    });
  };

  return { start };
})();
