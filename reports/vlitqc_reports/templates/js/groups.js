const Groups = (() => {
  const { meta } = Data;
  const FIRST = { clusters: 8, groups: 2 };
  const STRIP = 4;
  const WORDS = 150;
  const KINDS = {
    exact: "The same conversation and media",
    "near text": "Nearly the same text",
    "near image": "Nearly the same picture",
  };

  /** What a cluster is called: its terms, or its number where no word is typical. */
  const title = ({ id, terms }) => (terms.length ? terms.join(", ") : `cluster ${Dom.count(id)}`);

  // The name of a hidden character has a space in it and stays one word.
  const WORD = /(?:\x01[^\x02]*\x02|\S)+/g;

  const cut = (text) => {
    const words = text.match(WORD) ?? [];
    return words.length > WORDS ? [...words.slice(0, WORDS), "…"] : words;
  };

  const picture = (card, k) => {
    const url = Data.picture(card, k);
    if (url === null) return null;
    const [width, height] = Data.pictureSize(card, k) ?? [null, null];
    return Dom.make("img", { src: url, width, height, ...Data.manner, alt: `Picture ${k + 1} of ${card.id || `row ${card.row}`}` });
  };

  /** A list of which the first few are shown, and a button for the others. */
  const folded = (list, items, what) => {
    const first = FIRST[what];
    list.append(...items.slice(0, first).map((make) => make()));
    if (items.length <= first) return [list];
    const all = Dom.button(`Show all ${Dom.count(items.length)} ${what}`, () => {
      const rest = items.slice(first).map((make) => make());
      list.append(...rest);
      all.remove();
      rest[0].tabIndex = -1;
      rest[0].focus();
    }, { class: "groups-more" });
    return [list, all];
  };

  // ---------------------------------------------------------------- clusters

  const members = (clustering, position) => {
    const codes = Data.array(clustering.array);
    const rows = [];
    for (let place = 0; place < codes.length; place += 1) if (codes[place] === position) rows.push(Data.row(place));
    return rows;
  };

  const cluster = (clustering, position) => {
    const { n, rows } = clustering.top[position];
    const key = `${clustering.array}:${position}`;
    const name = title(clustering.top[position]);
    const strip = Dom.make("div", { class: "cluster-strip" });
    const quote = Dom.make("p", { class: "cluster-quote", dir: "auto" });
    const room = Dom.make("div", { class: "cluster-samples", hidden: true });
    const selected = Dom.make("span", { class: "cluster-selected" });
    const onMap = Dom.button("Select on the map", (event) => {
      Selection.toggle(members(clustering, position), `Clusters of ${clustering.title.toLowerCase()}: ${name}`, key,
        event.shiftKey);
      if (Selection.key === key) ScatterMap.show(clustering);
    }, { "aria-pressed": false, "aria-label": `Select on the map: ${name}` });
    const samples = Dom.button("Show samples", () => {
      room.hidden = !room.hidden;
      Dom.set(samples, "aria-expanded", !room.hidden);
      if (room.childElementCount) return;
      const found = members(clustering, position).filter(Data.hasCard);
      Cards.gallery(room, {
        page: async (offset, limit) => ({ rows: found.slice(offset, offset + limit), total: found.length }),
      }, { title: name });
    }, { "aria-expanded": false, "aria-label": `Show samples: ${name}` });
    Data.cards(rows.slice(0, STRIP)).then((cards) => {
      strip.append(...cards.map((card) => picture(card, 0)).filter(Boolean));
      const said = cards.flatMap((card) => card.turns.map(([, response]) => response)).find(Boolean);
      if (said) quote.append(Dom.text(cut(said).slice(0, 40).join(" ")));
    });
    const item = Dom.make("li", { class: "cluster" },
      Dom.make("div", { class: "cluster-words" },
        Dom.make("h4", {}, Dom.make("bdi", { text: name })),
        Dom.make("p", { class: "quiet" },
          `${Dom.plural(n, "record")} · ${Dom.percent(n, meta.n)}`, selected),
        quote),
      strip,
      Dom.make("div", { class: "cluster-tools" }, onMap, samples),
      room);
    const follow = () => {
      const mine = Selection.key === key;
      Dom.set(onMap, "aria-pressed", mine);
      item.classList.toggle("is-selected", mine);
      const inside = Selection.rows === null || mine ? 0
        : members(clustering, position).filter((row) => Selection.rows.has(row)).length;
      selected.textContent = inside ? ` · ${Dom.count(inside)} selected` : "";
    };
    document.addEventListener("vlitqc:selection", follow);
    follow();
    return item;
  };

  const clusters = (clustering) => {
    const { noise, n_clusters: n, top } = clustering;
    const list = Dom.make("ul", { class: "clusters" });
    const largest = n > top.length ? `, of which the ${Dom.count(top.length)} largest are here` : "";
    return Dom.make("section", { class: "part" },
      Dom.make("h3", { text: `Clusters of ${clustering.title.toLowerCase()}` }),
      Dom.make("p", { class: "quiet", text: `${Dom.plural(n, "cluster")}${largest}; ${Dom.plural(noise, "record")} in none. `
        + "Each is named by the words that its responses have more often than the others’." }),
      ...folded(list, top.map((_, position) => () => cluster(clustering, position)), "clusters"));
  };

  // ---------------------------------------------------------------- near-duplicates

  /** For each word of `ours` whether a longest common subsequence with `theirs` has it. */
  const common = (ours, theirs) => {
    const width = theirs.length + 1;
    const length = new Uint16Array((ours.length + 1) * width);
    for (let i = ours.length - 1; i >= 0; i -= 1) {
      for (let j = theirs.length - 1; j >= 0; j -= 1) {
        length[i * width + j] = ours[i] === theirs[j] ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
      }
    }
    const shared = ours.map(() => false);
    for (let i = 0, j = 0; i < ours.length && j < theirs.length;) {
      if (ours[i] === theirs[j]) {
        shared[i] = true;
        [i, j] = [i + 1, j + 1];
      } else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i += 1;
      else j += 1;
    }
    return shared;
  };

  /** The text with the words that `other` does not have in their place marked; all of it plain where that is null. */
  const compared = (text, other) => {
    const words = cut(text);
    const shared = other === null ? words.map(() => true) : common(words, cut(other));
    const pieces = [];
    words.forEach((word, i) => {
      if (i) pieces.push(" ");
      pieces.push(shared[i] ? word : Dom.make("mark", { text: word }));
    });
    return Dom.make("p", { class: "text", dir: "auto" }, ...pieces);
  };

  const side = (card, first) => {
    const turns = card.turns.map(([asked, answered], t) => {
      const other = first?.turns[t];
      return Dom.make("div", {},
        Dom.make("span", { class: "who", text: "Instruction" }), compared(asked, first ? other?.[0] ?? "" : null),
        Dom.make("span", { class: "who", text: "Response" }), compared(answered, first ? other?.[1] ?? "" : null));
    });
    return Dom.make("li", {},
      Dom.make("div", { class: "copy-pictures" },
        ...card.pictures.map((_, k) => picture(card, k)).filter(Boolean).slice(0, 2)),
      Dom.make("h5", {}, Dom.make("bdi", { text: card.id || `row ${Dom.count(card.row)}` })),
      Dom.make("p", { class: "quiet" }, Dom.make("bdi", { text: card.where })),
      card.fault ? Dom.make("p", { text: card.fault }) : null,
      ...turns,
      card.more_turns ? Dom.make("p", { class: "quiet", text: `${Dom.plural(card.more_turns, "more turn")}` }) : null);
  };

  const duplicates = ({ kind, n, rows }) => {
    const columns = Dom.make("ul", { class: "copies" });
    const rest = n - rows.length;
    Data.cards(rows).then((cards) => {
      columns.append(...cards.map((card, i) => side(card, kind === "near text" && i ? cards[0] : null)));
    });
    return Dom.make("li", { class: "copy-group" },
      Dom.make("h4", {}, KINDS[kind] ?? kind, " ", Dom.make("span", { class: "n", text: Dom.plural(n, "record") })),
      columns,
      rest > 0 ? Dom.make("p", { class: "quiet", text: `${Dom.count(rest)} more of this group ${rest === 1 ? "has" : "have"} no card here.` }) : null);
  };

  const repeated = () => {
    const shown = meta.duplicates.filter(({ rows }) => rows.length > 1);
    if (!shown.length) return Dom.make("p", { class: "quiet", text: "No near-duplicates to show." });
    return Dom.make("section", { class: "part" },
      Dom.make("h3", { text: "Near-duplicates side by side" }),
      Dom.make("p", { class: "quiet", text: "The largest groups first, and in each the earliest record first. "
        + "Marked words are not in the first one at their place." }),
      ...folded(Dom.make("ul", { class: "copy-groups" }), shown.map((group) => () => duplicates(group)), "groups"));
  };

  const start = () => {
    const room = document.getElementById("groups");
    room.append(...meta.clusters.map(clusters), repeated());
  };

  return { start, title };
})();
