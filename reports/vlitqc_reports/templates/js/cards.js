const Cards = (() => {
  /** How much of a conversation stands open: turns, characters and lines of a text, characters of its beginning. */
  const OPEN = {
    brief: { turns: 1, text: 170, lines: 5, preview: 130 },
    usual: { turns: 2, text: 360, lines: 9, preview: 280 },
    large: { turns: Infinity, text: Infinity, lines: Infinity },
  };
  const STATES = { partial: "scored in part", unreadable: "unreadable" };
  const make = Dom.make;

  // ---------------------------------------------------------------- one card

  /** The first `most` characters, or lines, without half a character or half a badge at the end. */
  const head = (words, { preview, lines }) => {
    const first = words.split("\n", lines).join("\n");
    return first.slice(0, preview).replace(/[\ud800-\udbff]$|\x01[^\x02]*$/, "");
  };

  const bdi = (words) => make("bdi", { text: words });

  const passage = (words, lost, who, open) => {
    if (!words && !lost) return make("p", { class: "text empty", text: `no ${who}` });
    const cut = lost
      ? make("span", { class: "lost", text: `… ${Dom.plural(lost, "more character")}, not in this page` })
      : null;
    const whole = make("p", { class: "text", dir: "auto", text: words }, cut);
    if (words.length <= open.text && words.split("\n").length <= open.lines) return whole;
    const all = lost ? `the first ${Dom.count(words.length)} characters` : `all ${Dom.count(words.length)} characters`;
    return make("details", { class: "fold" },
      make("summary", {},
        make("span", { class: "preview", dir: "auto", text: `${head(words, open)}…` }),
        make("span", { class: "more", text: `Show ${all}` }),
        make("span", { class: "less", text: "Show less" })),
      whole);
  };

  const turn = ([instruction, response, ...lost], open) => [
    make("div", { class: "turn ask" },
      make("span", { class: "who", text: "Instruction" }), passage(instruction, lost[0] ?? 0, "instruction", open)),
    make("div", { class: "turn answer" },
      make("span", { class: "who", text: "Response" }), passage(response, lost[1] ?? 0, "response", open)),
  ];

  const talk = (card, open) => {
    const turns = card.turns.map((one) => turn(one, open));
    const rest = turns.splice(open.turns);
    return make("div", { class: "talk" },
      ...turns,
      rest.length
        ? make("details", { class: "turns" },
          make("summary", { text: Dom.plural(rest.length, "more turn") }), ...rest)
        : null,
      card.more_turns
        ? make("p", { class: "quiet", text: `${Dom.plural(card.more_turns, "more turn")}, not in this page` })
        : null);
  };

  const percents = (share) => `${(100 * share).toFixed(2)}%`;

  /** Boxes in shares of the picture, so that they fit it at any size; a label stands inside its box. */
  const boxes = (marks) => Dom.svg("svg", { class: "marks", "aria-hidden": "true" },
    marks.flatMap(([label, left, top, right, bottom]) => {
      const [x, y, ends] = [Math.min(left, right), Math.min(top, bottom), Math.max(left, right)];
      const late = x > 0.5;
      return [
        Dom.svg("rect", {
          x: percents(x), y: percents(y), width: percents(ends - x), height: percents(Math.abs(bottom - top)),
        }),
        Dom.svg("text", {
          x: percents(late ? ends : x), y: percents(y), dx: late ? -3 : 3, dy: y > 0.9 ? -4 : 12,
          "text-anchor": late ? "end" : "start", text: Dom.plain(label),
        }),
      ];
    }));

  const noPicture = (reason) =>
    make("div", { class: "gone" }, make("strong", { text: "No picture" }), bdi(reason));

  const shot = (card, k, see) => {
    const picture = card.pictures[k];
    if (picture.fault !== null) return noPicture(picture.fault);
    const url = Data.picture(card, k);
    if (!url) return make("div", { class: "gone quiet", text: "Thumbnail left out to save space" });
    const [width, height] = picture.size ?? [4, 3];
    const of = card.pictures.length + card.more_pictures;
    const image = make("img", {
      src: url, width, height, ...Data.manner, draggable: "false",
      alt: `Picture ${k + 1} of ${of}${picture.objects ? `: ${picture.objects}` : ""}`,
      on: { error: () => frame.replaceWith(noPicture("its thumbnail cannot be loaded")) },
    });
    const frame = make(see ? "button" : "div", { class: "shot", type: see ? "button" : null }, image,
      picture.marks.length ? boxes(picture.marks) : null);
    if (see) frame.addEventListener("click", see);
    frame.style.setProperty("--aspect", Math.min(40, Math.max(0.025, width / height)));
    frame.style.setProperty("--natural", `${width}px`);
    return frame;
  };

  const pictures = (card, see) => make("ul", { class: "pictures" },
    card.pictures.map((picture, k) => make("li", {},
      shot(card, k, see),
      make("span", { class: "caption", text: picture.label }),
      make("span", { class: "caption from", title: picture.reference }, bdi(picture.reference)),
      picture.objects ? make("span", { class: "caption" }, bdi(picture.objects)) : null)),
    card.more_pictures
      ? make("li", {}, make("div", { class: "gone quiet", text: Dom.plural(card.more_pictures, "more picture") }))
      : null);

  const media = (card) => make("ul", { class: "clips" }, card.media.map((words) => make("li", {}, bdi(words))));

  const faults = (card) => make("ul", { class: "faults", "aria-label": "Issues of this record" },
    card.issues.map(([severity, kind, detail]) => make("li", {},
      make("span", { class: `fault ${severity}`, text: `${severity}: ${kind}` }), " ", bdi(detail))));

  const scores = (card, metric, large) => make("details", { class: "all-scores", open: large },
    make("summary", { text: "All scores" }),
    make("table", {}, make("tbody", {}, card.scores.map(([name, title, value, reason, parts]) =>
      make("tr", { class: name === metric ? "here" : null },
        make("th", { scope: "row", text: title },
          name === metric ? make("span", { class: "sr", text: " (this measurement)" }) : null),
        make("td", {},
          value === null ? make("span", { class: "quiet" }, "none: ", bdi(reason)) : make("strong", {}, bdi(value)),
          parts.map(([part, of]) => make("span", { class: "part", text: `${part} ${of}` }))))))));

  /** Why a card is here: words, or {text, kind} with a kind of "goes" or "stays". */
  const why = (note) => {
    const { text, kind = "" } = typeof note === "string" ? { text: note } : note ?? { text: "" };
    return make("span", { class: `why ${kind}`.trim(), text, hidden: !text });
  };

  const enlarge = (card, see) => {
    const button = Dom.button("", see,
      { class: "see", "aria-label": `See record ${title(card)} large`, title: "See large" });
    button.append(Dom.svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
      Dom.svg("path", { d: "M9.5 2H14v4.5M14 2 9 7M6.5 14H2V9.5M2 14l5-5" })));
    return button;
  };

  const title = (card) => card.id || `record in ${card.where}`;

  /**
   * A card. `metric` names the measurement whose value heads it, `note` says why it is here (see `why`), `see` is
   * called when somebody wants to see it large (by default it opens alone), `size` is how much of it stands open: "brief", "usual" or "large", without folds.
   */
  const render = (card, { metric = null, note = null, see = null, size = "usual" } = {}) => {
    const large = size === "large";
    const alone = () => look({ title: "", metric, total: () => 1, at: async () => ({ card, note }) }, 0);
    const show = large ? null : see ?? alone;
    const line = metric && card.scores.find(([name]) => name === metric);
    const textual = card.fault === null && !card.pictures.length && !card.media.length;
    const content = card.fault === null
      ? [
        card.pictures.length ? pictures(card, show) : null,
        make("div", { class: "words" }, card.media.length ? media(card) : null, talk(card, OPEN[size])),
      ]
      : [make("p", { class: "gone" }, bdi(card.fault))];
    return make("article", {
      class: card.pictures.length + card.more_pictures === 1 ? "card one" : "card",
      tabindex: large ? null : -1, "data-row": card.row, "aria-label": `Record ${title(card)}`,
    },
    make("header", { class: "card-head" },
      make("p", { class: "id" }, bdi(title(card))),
      line
        ? make("p", { class: "reading" }, make("span", { class: "sr", text: `${line[1]}: ` }), line[2] ?? "not scored")
        : null,
      show ? enlarge(card, show) : null,
      make("p", { class: "place" },
        why(note),
        make("code", {}, bdi(card.where)),
        card.task ? make("span", { class: "tag" }, bdi(card.task)) : null,
        textual ? make("span", { class: "tag", text: "text only" }) : null,
        STATES[card.state] ? make("span", { class: "tag state", text: STATES[card.state] }) : null)),
    content,
    card.issues.length ? faults(card) : null,
    card.scores.length ? scores(card, metric, large) : null);
  };

  // ---------------------------------------------------------------- one card, large

  let dialog = null;

  const built = () => {
    const heading = make("h2", { id: "large-card", text: "" });
    const previous = Dom.button("← Previous", () => move(-1));
    const next = Dom.button("Next →", () => move(1));
    const objects = Dom.button("Show objects", () => mark(element, objects), { "aria-pressed": "false" });
    const body = make("div", { class: "large-body", tabindex: 0, role: "region", "aria-labelledby": "large-card" });
    const element = make("dialog", {
      class: "large", "aria-labelledby": "large-card",
      on: {
        click: (event) => { if (event.target === element) element.close(); },
        keydown: (event) => {
          const by = { ArrowLeft: -1, k: -1, ArrowRight: 1, j: 1 }[event.key];
          if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
          event.preventDefault();
          event.stopPropagation();
          move(by);
        },
        close: () => body.replaceChildren(),
      },
    },
    make("div", { class: "large-bar" }, heading, objects, previous, next, Dom.button("Close", () => element.close())),
    body);
    document.body.append(element);

    let list = null;
    let index = 0;
    let busy = false;
    const show = async (wanted) => {
      const found = await list.at(wanted);
      if (!found) return;
      index = wanted;
      const total = list.total();
      heading.replaceChildren(Dom.text(total > 1 ? `${Dom.count(index + 1)} of ${Dom.count(total)}` : "Record"),
        list.title ? make("span", { class: "quiet", text: ` ${list.title}` }) : "");
      Dom.set(previous, "aria-disabled", String(index === 0));
      Dom.set(next, "aria-disabled", String(index + 1 >= total));
      previous.hidden = next.hidden = total < 2;
      objects.hidden = !found.card.pictures.some((picture) => picture.marks.length);
      body.replaceChildren(render(found.card, { metric: list.metric, note: found.note, size: "large" }));
      body.scrollTop = 0;
    };
    const move = async (by) => {
      const wanted = index + by;
      if (busy || wanted < 0 || wanted >= list.total()) return;
      busy = true;
      await show(wanted).finally(() => { busy = false; });
      Dom.announce(`${heading.textContent}: ${body.querySelector(".id").textContent}`);
    };
    return {
      async open(given, at) {
        list = given;
        await show(at);
        if (!element.open) element.showModal();
        body.focus();
      },
    };
  };

  /** Show the card at this place of a list large: {title, metric, total(), async at(index) → {card, note} or null}. */
  const look = (list, at) => (dialog ??= built()).open(list, at);

  const mark = (element, button) => button.setAttribute("aria-pressed", String(element.classList.toggle("marked")));

  // ---------------------------------------------------------------- a gallery

  /**
   * The cards of a source, a page at a time. source: {async page(offset, limit) → {rows, total}, label?(card) → note};
   * `first` are shown before the button for `size` more is pressed, `brief` ones with little of their text;
   * `empty` says in words that there is none. Nothing is asked for before the gallery comes near the window or is
   * printed, and nothing anew while it is away from it.
   */
  const gallery = (container, source, { title: name = "", first = 12, size = 12, brief = false, metric = null, empty = "No record to show." } = {}) => {
    const made = new Map();
    let entries = [];
    let total = 0;
    let wanted = first;
    let questions = 0;
    let stale = true;
    let asking = false;
    let near = false;
    let timer = 0;

    const status = make("p", { class: "quiet" });
    const folds = Dom.button("Open all", () => {
      const open = folds.getAttribute("aria-pressed") !== "true";
      for (const fold of Dom.all("details", list)) fold.open = open;
      folds.setAttribute("aria-pressed", String(open));
      folds.textContent = open ? "Close all" : "Open all";
    }, { "aria-pressed": "false", hidden: true });
    const objects = Dom.button("Show objects", () => mark(list, objects), { "aria-pressed": "false", hidden: true });
    const list = make("ul", { class: "cards pending", "aria-label": name || "Records" });
    const more = Dom.button("Show more", async () => {
      const before = entries.length;
      await extend();
      entries[before]?.element.focus();
      Dom.announce(status.textContent);
    }, { class: "show-more", hidden: true });
    container.replaceChildren(make("div", { class: "gallery-bar" }, status, objects, folds), list, more);

    const label = (card) => source.label?.(card) ?? null;

    const entry = (card) => {
      if (!made.has(card.row)) {
        const see = () => look(large, entries.findIndex((one) => one.card === card));
        const element = render(card, { metric, note: label(card), see, size: brief ? "brief" : "usual" });
        made.set(card.row, { card, element, item: make("li", {}, element) });
      }
      return made.get(card.row);
    };

    const put = (fresh) => {
      const kept = fresh.length === entries.length && fresh.every((one, i) => one === entries[i]);
      const focused = list.contains(document.activeElement) ? document.activeElement : null;
      entries = fresh;
      wanted = Math.max(first, entries.length);
      if (!kept) list.replaceChildren(...entries.map((one) => one.item));
      if (focused?.isConnected) focused.focus({ preventScroll: true });
      for (const { card, element } of entries) element.querySelector(".why").replaceWith(why(label(card)));
      const rest = total - entries.length;
      const range = `1–${Dom.count(entries.length)} of ${Dom.count(total)}`;
      status.textContent = !total ? empty : rest > 0 ? range : Dom.plural(total, "record");
      more.hidden = rest <= 0;
      more.textContent = `Show ${Dom.count(Math.min(size, rest))} more`;
      folds.hidden = !entries.length;
      objects.hidden = !entries.some(({ card }) => card.pictures.some((picture) => picture.marks.length));
    };

    /**
     * Ask for the records up to `end`: for those that are missing, or for all where they are stale, which they are until
     * the answer comes. An answer that comes after a newer question is of no use.
     */
    const ask = async (end) => {
      clearTimeout(timer);
      const question = questions += 1;
      const fresh = stale ? [] : [...entries];
      const offset = fresh.length;
      wanted = end;
      asking = true;
      Dom.set(list, "aria-busy", true);
      try {
        for (let at = offset; at === offset || at < Math.min(end, total); at += size) {
          const answer = await source.page(at, Math.min(size, end - at));
          const cards = await Data.cards(answer.rows);
          if (question !== questions) return;
          total = answer.total;
          fresh.push(...cards.map(entry));
        }
        stale = false;
        put(fresh);
      } catch (error) {
        if (question !== questions) return;
        status.textContent = `The records cannot be had: ${error.message}`;
      }
      asking = false;
      Dom.set(list, "aria-busy", false);
      list.classList.remove("pending");
    };

    const load = () => ask(wanted);
    const extend = () => ask(Math.max(wanted, entries.length + size));
    const large = {
      title: name,
      metric,
      total: () => total,
      at: async (index) => {
        if (index >= entries.length) await extend();
        const found = entries[index];
        return found ? { card: found.card, note: label(found.card) } : null;
      },
    };

    new IntersectionObserver(([seen]) => {
      near = seen.isIntersecting;
      if (near && stale && !asking) load();
    }, { rootMargin: "600px 0px" }).observe(list);
    // What is in the page comes before the event is over; what a server has comes too late for this print. Capturing
    // comes first: the cards are there when Nav opens every fold.
    window.addEventListener("beforeprint", () => {
      if (stale && !asking && list.checkVisibility()) load();
    }, { capture: true });

    return {
      /** Ask the source again; a card that stays keeps its folds as they are. */
      refresh() {
        stale = true;
        asking = false;
        questions += 1;
        Dom.set(list, "aria-busy", near);
        clearTimeout(timer);
        timer = setTimeout(() => {
          if (near) load();
          else Dom.set(list, "aria-busy", false);
        }, 100);
      },
    };
  };

  return { gallery };
})();
