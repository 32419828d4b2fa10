"""A run as one self-contained HTML file, for the meeting at which a data set is reviewed.

Nothing in the file comes from elsewhere and nothing in it asks for anything: style, script, data and thumbnails are
inside, and a Content-Security-Policy allows exactly that style and that script, by hash. Everything that comes from
the data is escaped, and characters that hide or turn text are shown by name.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from vlitqc.errors import UsageError
from vlitqc_reports import charts, composition, page, wording
from vlitqc_reports.explorer import pack
from vlitqc_reports.explorer.contents import Contents
from vlitqc_reports.explorer.samples import Card, Samples, cut
from vlitqc_reports.page import Page
from vlitqc_reports.source import ReportableRun
from vlitqc_reports.thumbnails import SIDE, Thumbnail

Mode = Literal["file", "folder", "serve"]

MAX_BYTES = 10_000_000
MAX_FOLDER_BYTES = 25_000_000
"""Of the page itself; its pictures stand beside it."""

_STATIC, _ARRAYS, _MAPS, _CARDS = 0.3, 0.35, 0.22, 0.3
"""Of the whole page the static parts may fill this share before they are shortened; of the room that they leave the
records' codes, the maps and the cards fill these at most. What is left is for pictures."""

_POINT_BYTES = 2 * 8 * 4 / 3
"""Of one record on two maps, in base64: there is little in coordinates that could be packed."""

_DRAWN = (
    "{} of the {} readable records are in this file, drawn at random, so that it stays small: counts over several "
    "thresholds and counts of each task are estimates, the sum for one threshold is exact."
)

_MOST_CARDS = {"file": 900, "folder": 5_000}
_CUTS = ((12_000, 24), (3_000, 10), (1_000, 5), (400, 2))
"""Characters and turns of a card's conversation, from all that is worth showing to what must do."""

_FOLDER_SIDE = 320
_INDEX, _PICTURES = "index.html", "pictures"
_PICTURE = re.compile(r"[0-9a-f]{16}\.jpg")
_MARK, _HEAD_BYTES = b'<meta name="generator" content="vlitqc', 4_096
"""By which a page of ours is known from any other, and where it stands."""

_LOST = "The content of {} could not be read again: {}"
_CUT = "Conversations are cut at {} characters to keep this file small."
_FEWER = "{} samples have a card instead of {}, to keep this file small."
_LEFT_OUT = "{} of {} thumbnails were left out to keep this file small."

_STYLES = ("base", "charts", "explorer", "cards", "map", "validity", "print")
_SCRIPTS = (
    *("dom", "data", "thresholds", "selection", "cards", "orders", "histogram"),
    *("map", "groups", "export", "issues", "nav", "keyboard", "main"),
)


def write_report(
    run: ReportableRun,
    out: Path,
    *,
    folder: bool = False,
    projection: str = "pca",
    max_bytes: int | None = None,
) -> Path:
    """Write the page of a run to ``out`` and return it.

    The file holds at most ``max_bytes`` (10 MB): of very many records it holds a uniform draw, cards are fewer and
    their conversations shorter, then thumbnails are left out from the least to the most telling, and the page says
    so. It is written beside ``out`` and moved into place, so a reader never sees half a page.

    With ``folder``, ``out`` is a folder with ``index.html`` and larger pictures of more records; ``max_bytes``
    (25 MB) is then for ``index.html``.

    Raises:
        UsageError: not even the bare numbers fit into ``max_bytes``, or ``out`` is a folder that is no report.
        OSError: ``out`` cannot be written.
    """
    if folder:
        return _write_folder(run, out, projection=projection, max_bytes=max_bytes or MAX_FOLDER_BYTES)
    text = render(run, projection=projection, max_bytes=max_bytes or MAX_BYTES)
    return put(text, out)


def put(text: str, out: Path) -> Path:
    """Write a page beside ``out``, move it into place and return it. Raises OSError where it cannot be written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        _write(fresh, text.encode("utf-8"))
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)
    return out


def render(
    run: ReportableRun,
    *,
    mode: Literal["file", "serve"] = "file",
    projection: str = "pca",
    max_bytes: int = MAX_BYTES,
) -> str:
    """The page as text, at most ``max_bytes`` in UTF-8; for a server without cards and thumbnails.

    Raises UsageError where the bytes are not enough.
    """
    return _build(run, mode, projection, max_bytes).text


@dataclass(frozen=True, slots=True)
class _Built:
    """A page, and the pictures that are to stand beside it."""

    text: str
    pictures: Sequence[Thumbnail]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The data blocks of a page, ready to stand in it."""

    meta: Markup
    arrays: Markup
    thumbs: Markup


_NO_DATA = _Blocks(Markup(), Markup(), Markup())


def _build(run: ReportableRun, mode: Mode, projection: str, max_bytes: int) -> _Built:
    contents = Contents(run)
    template = _Template(mode)
    made = composition.build(run)
    bare = page.build(run, contents, made)
    if len(template.render(bare, _NO_DATA).encode("utf-8")) > max_bytes * _STATIC:
        bare = page.build(run, contents, made, short=True)
    anchors = {m.data["name"]: m.anchor for p in bare.principles for m in p.metrics}
    meta = {"mode": mode, "stored": {}, "maps": [], **contents.meta(anchors)}
    room = max_bytes - len(_checked(template.render(bare, _blocks(meta, {}, {})), max_bytes).encode("utf-8"))
    stored = _stored(contents, int(room * _ARRAYS))
    arrays = contents.arrays(stored)
    n = len(arrays["task"])
    meta["stored"] = {"n": n, "exact": stored is None}
    meta["maps"], own = contents.maps(stored, projection, int(room * _MAPS / _POINT_BYTES))
    arrays |= own
    if stored is not None:
        bare = _noted(bare, _DRAWN.format(wording.count(n), wording.count(len(contents.rows))))
    if mode == "serve":
        return _Built(_checked(template.render(bare, _blocks(meta, arrays, {})), max_bytes), ())
    samples = Samples(run, side=_FOLDER_SIDE if mode == "folder" else SIDE)
    cards, cut_words = _cards(samples, contents.choice(_MOST_CARDS[mode]), int(room * _CARDS))
    meta |= contents.meta(anchors, [card["row"] for card in cards])
    arrays["cards"] = pack.texts(cards)
    bare = _noted(bare, *_lost_words(samples, cards), *cut_words)
    ranked = _ranked(cards, samples.thumbs)
    if mode == "folder":
        sizes = {thumb.key: (thumb.width, thumb.height) for thumb in ranked}
        text = template.render(bare, _blocks(meta, arrays, sizes))
        return _Built(_checked(text, max_bytes), ranked)
    return _with_thumbnails(template, bare, meta, arrays, ranked, max_bytes)


def _noted(shown: Page, *notes: str) -> Page:
    return replace(shown, notes=(*shown.notes, *notes)) if notes else shown


def _checked(text: str, max_bytes: int) -> str:
    used = len(text.encode("utf-8"))
    if used > max_bytes:
        raise UsageError(f"a report of this run needs at least {used:,} bytes; max_bytes is {max_bytes:,}")
    return text


def _blocks(
    meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], thumbs: Mapping[str, Any]
) -> _Blocks:
    types, text = pack.packed(arrays)
    return _Blocks(
        Markup(pack.as_json({**meta, "array_types": types})),  # noqa: S704 escaped for a block
        Markup(text),  # noqa: S704 base64
        Markup(pack.as_json(thumbs)),  # noqa: S704 escaped for a block
    )


def _stored(contents: Contents, budget: int) -> NDArray[np.int64] | None:
    """The places whose codes fit into the budget: None for all, else a uniform draw, ascending."""
    n = len(contents.rows)
    random = np.random.default_rng(contents.seed)
    stored: NDArray[np.int64] | None = None
    size = n
    while size and (used := len(pack.packed(contents.arrays(stored))[1])) > budget:
        size = int(min(size * budget / used * 0.98, size - 1))
        stored = np.sort(random.choice(n, size, replace=False))
    return stored


def _cards(samples: Samples, rows: list[int], budget: int) -> tuple[list[Card], tuple[str, ...]]:
    """The cards of as many rows as fit into the budget, and what had to be cut, in words."""
    full = _CUTS[0]
    whole = [cut(card, text=full[0], turns=full[1]) for card in samples.cards(rows)]
    cards, (text, turns) = whole, full
    sizes = [len(whole) >> k for k in range(len(whole).bit_length())]
    for n, (text, turns) in itertools.product(sizes, _CUTS):
        cards = [cut(card, text=text, turns=turns) for card in whole[:n]]
        if len(pack.packed({"cards": pack.texts(cards)})[1]) <= budget:
            break
    else:
        cards = []
    notes = []
    if cards and (text, turns) != full:
        notes.append(_CUT.format(wording.count(text)))
    if len(cards) < len(whole):
        notes.append(_FEWER.format(wording.count(len(cards)), wording.count(len(whole))))
    return cards, tuple(notes)


def _lost_words(samples: Samples, cards: Sequence[Card]) -> Iterator[str]:
    """How many cards have no content because their records could not be read again, if any, and why."""
    reasons = list(filter(None, (samples.lost.get(card["row"]) for card in cards)))
    if reasons:
        n = f"{wording.count(len(reasons))} of {wording.count(len(cards))} cards"
        others = len(set(reasons)) - 1
        more = f" (and {wording.count(others)} other reason{'s' if others > 1 else ''})" if others else ""
        yield _LOST.format(n, wording.clip(reasons[0], 400) + more)


def _ranked(cards: Iterable[Card], thumbs: Mapping[str, Thumbnail]) -> list[Thumbnail]:
    """Distinct thumbnails: every sample's first picture before any second one, the most important samples first."""
    places = [
        (k, rank, picture["thumb"])
        for rank, card in enumerate(cards)
        for k, picture in enumerate(card["pictures"])
        if picture["thumb"] is not None
    ]
    return [thumbs[key] for key in dict.fromkeys(key for _, _, key in sorted(places))]


def _with_thumbnails(
    template: _Template,
    shown: Page,
    meta: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    ranked: list[Thumbnail],
    max_bytes: int,
) -> _Built:
    """The page with as many thumbnails as fit, the most telling first."""

    def without(missing: int) -> Page:
        note = _LEFT_OUT.format(wording.count(missing), wording.count(len(ranked)))
        return _noted(shown, note) if missing else shown

    def room(page: Page) -> int:
        return max_bytes - len(template.render(page, blocks).encode("utf-8"))

    blocks = _blocks(meta, arrays, {})
    stored = {
        thumb.key: (thumb.width, thumb.height, base64.b64encode(thumb.jpeg).decode("ascii"))
        for thumb in ranked
    }
    costs = {key: len(pack.as_json({key: picture})) for key, picture in stored.items()}
    left = room(shown)
    if sum(costs.values()) > left:
        left = room(without(len(ranked)))
    chosen: dict[str, tuple[int, int, str]] = {}
    for key, cost in costs.items():
        if cost <= left:
            chosen[key] = stored[key]
            left -= cost
    blocks = replace(blocks, thumbs=Markup(pack.as_json(chosen)))  # noqa: S704 escaped for a block
    text = template.render(without(len(ranked) - len(chosen)), blocks)
    return _Built(_checked(text, max_bytes), ())


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _write_folder(run: ReportableRun, out: Path, *, projection: str, max_bytes: int) -> Path:
    why = _not_ours(out)
    if why is not None:
        raise UsageError(f"{why}; name another folder with --out DIR")
    built = _build(run, "folder", projection, max_bytes)
    # The current folder has a name when it is absolute.
    place = out.absolute()
    fresh = place.with_name(f".{place.name}.{os.getpid()}.new")
    pictures = out / _PICTURES
    thumbs = {f"{thumb.key}.jpg": thumb for thumb in built.pictures}
    try:
        fresh.mkdir(parents=True)
        for name, thumb in thumbs.items():
            (fresh / name).write_bytes(thumb.jpeg)
        _write(fresh / _INDEX, built.text.encode("utf-8"))
        pictures.mkdir(parents=True, exist_ok=True)
        # They are called by their content: the page that is replaced keeps its own until it is gone.
        for name in thumbs:
            (fresh / name).replace(pictures / name)
        (fresh / _INDEX).replace(out / _INDEX)
        for picture in pictures.iterdir():
            if picture.name not in thumbs:
                picture.unlink()
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out / _INDEX


def _not_ours(folder: Path) -> str | None:
    """Why a folder may not be replaced: it is neither empty nor a page of ours with its pictures and nothing else."""
    index, pictures = folder / _INDEX, folder / _PICTURES
    for path, kind in ((folder, "folder"), (index, "file"), (pictures, "folder")):
        found = _kind(path)
        if found not in (None, kind):
            return f"{path} is a {found} where a report has a {kind}"
    if not folder.exists():
        return None
    if index.exists() and _MARK not in index.read_bytes()[:_HEAD_BYTES]:
        return f"{index} is no page of vlitqc"
    inside = pictures.iterdir() if pictures.exists() else ()
    strangers = [each for each in folder.iterdir() if each not in (index, pictures)]
    strangers += [each for each in inside if not _PICTURE.fullmatch(each.name) or _kind(each) != "file"]
    return f"{strangers[0]} is no part of a report of vlitqc" if strangers else None


def _kind(path: Path) -> str | None:
    """What stands at a path, in words; None for nothing."""
    if path.is_symlink():
        return "link"
    return "folder" if path.is_dir() else "file" if path.exists() else None


def source_hash(text: str) -> str:
    """The Content-Security-Policy source of an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _finalize(value: Any) -> Any:
    """Every text that a template prints without saying how: control and direction marks are named."""
    return wording.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def environment() -> jinja2.Environment:
    """What turns templates into pages: it escapes everything, and knows how this package writes numbers and texts."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("vlitqc_reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "show": wording.visible,
        "num": wording.number,
        "count": wording.count,
        "size": wording.size,
        "duration": wording.duration,
        "scale": wording.scale,
        "direction": wording.direction,
        "percent": wording.percent,
        "clip": wording.clip,
        "label": wording.label,
        "sentence": wording.sentence,
    }
    env.globals |= {"charts": charts, "share": wording.share, "unit_words": wording.unit_words}
    return env


def source(env: jinja2.Environment, name: str) -> str:
    """A file of the templates as it stands."""
    assert env.loader is not None
    return env.loader.get_source(env, name)[0]


class _Template:
    """The page's template with its style and script, read once."""

    def __init__(self, mode: Mode) -> None:
        env = environment()
        self._mode = mode
        self._css = "".join(source(env, f"css/{name}.css") for name in _STYLES)
        js = "".join(source(env, f"js/{name}.js") for name in _SCRIPTS)
        self._js = f'"use strict";\n(() => {{\n{js}}})();\n'
        self._template = env.get_template("report.html.j2")
        rules = {
            "default-src": "'none'",
            "style-src": source_hash(self._css),
            "script-src": source_hash(self._js),
            "img-src": {"file": "data:", "folder": "data: 'self'", "serve": "data: 'self'"}[mode],
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        if mode == "serve":
            rules["connect-src"] = "'self'"
        self._policy = "; ".join(f"{rule} {sources}" for rule, sources in rules.items())
        self._last: tuple[Page, list[str]] | None = None

    def render(self, shown: Page, blocks: _Blocks) -> str:
        """The page as text."""
        # One page is measured with several blocks, which stand one after the other: the rest is written once.
        if self._last is None or self._last[0] is not shown:
            self._last = shown, self._around_blocks(shown)
        before, meta, arrays, after = self._last[1]
        return "".join((before, blocks.meta, meta, blocks.arrays, arrays, blocks.thumbs, after))

    def _around_blocks(self, shown: Page) -> list[str]:
        mark = Markup(secrets.token_hex(16))  # noqa: S704 nothing that data could hold
        text = self._template.render(
            page=shown,
            card=shown.card,
            mode=self._mode,
            blocks=_Blocks(mark, mark, mark),
            css=Markup(self._css),  # noqa: S704 our own file
            js=Markup(self._js),  # noqa: S704 our own file
            policy=self._policy,
        )
        return text.split(mark)
