const Data = (() => {
  const VIEWS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  const json = (id) => JSON.parse(document.getElementById(id).textContent);

  const meta = json("meta");
  const serving = meta.mode === "serve";
  const types = meta.array_types ?? {};
  const known = new Map();
  let buffer = null;
  let rows = null;
  let thumbs = null;

  const decoded = (base64) => {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
    return bytes;
  };

  const unpacked = (bytes) =>
    new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

  const load = async () => {
    const block = document.getElementById("arrays");
    const base64 = block.textContent.trim();
    buffer = base64 ? await unpacked(decoded(base64)) : new ArrayBuffer(0);
    // The packed text is several megabytes that nobody reads again.
    block.remove();
    rows = array("rows");
    const cards = array("cards");
    if (cards?.length) {
      for (const card of JSON.parse(new TextDecoder().decode(cards))) known.set(card.row, card);
    }
  };

  /** A named array as a typed view of the data, or null where the page has none of this name. */
  const array = (name) => {
    if (!Object.hasOwn(types, name)) return null;
    const [type, offset, length] = types[name];
    return new VIEWS[type](buffer, offset, length);
  };

  const n = meta.stored.n;

  /** The record's row at a stored place. */
  const row = (place) => (rows ? rows[place] : place);

  /** The stored place of a row, or -1. */
  const index = (wanted) => {
    if (!rows) return wanted >= 0 && wanted < n ? wanted : -1;
    let low = 0;
    let high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return rows[low] === wanted ? low : -1;
  };

  const hasCard = (wanted) => serving || known.has(wanted);

  /** The rows that have a card in this page; a server has one for every row, here are those it has sent. */
  const cardRows = () => Array.from(known.keys());

  /** The cards of these rows, in this order; those that cannot be had are left out. */
  const cards = async (wanted) => {
    if (serving) {
      const asked = wanted.filter((one) => !known.has(one));
      if (asked.length) {
        for (const card of await ask(`api/cards?rows=${asked.join(",")}`)) known.set(card.row, card);
      }
    }
    return wanted.map((one) => known.get(one)).filter((card) => card !== undefined);
  };

  /** An answer of the local server; with `body` as a POST. Throws where there is none. */
  const ask = async (path, body) => {
    const options = body === undefined
      ? {}
      : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const answer = await fetch(path, options);
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error ?? `the server answered ${answer.status}`);
    return content;
  };

  const thumb = (card, k) => {
    const key = card.pictures[k]?.thumb;
    if (!key) return null;
    thumbs ??= json("thumbs");
    return Object.hasOwn(thumbs, key) ? thumbs[key] : null;
  };

  /** The address of a card's picture, or null where the page has none. */
  const picture = (card, k) => {
    if (serving) return card.pictures[k]?.fault === null ? `picture?row=${card.row}&k=${k}` : null;
    const found = thumb(card, k);
    if (!found) return null;
    return meta.mode === "folder" ? `pictures/${card.pictures[k].thumb}.jpg` : `data:image/jpeg;base64,${found[2]}`;
  };

  /** How pictures come: those in the page at once, so that they can be printed; others when they are near. */
  const manner = meta.mode === "file" ? { decoding: "sync" } : { loading: "lazy", decoding: "async" };

  /** Width and height of a card's stored thumbnail in pixels, or null. */
  const pictureSize = (card, k) => thumb(card, k)?.slice(0, 2) ?? null;

  return { ready: load(), meta, serving, array, n, row, index, hasCard, cardRows, cards, ask, picture, manner, pictureSize };
})();
