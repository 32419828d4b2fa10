"""A run as one self-contained HTML file, for the meeting at which a data set is reviewed.

Nothing in the file comes from elsewhere and nothing in it asks for anything: style, script and thumbnails are
inside, and a Content-Security-Policy allows exactly that style and that script, by hash. Everything that comes
from the data is escaped, and characters that hide or turn text are shown by name.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vlitqc.errors import UsageError
from vlitqc_reports import charts, page, wording
from vlitqc_reports.page import LADDER, Limits, Page, PageBuilder, ReportableRun
from vlitqc_reports.thumbnails import Thumbnail

MAX_BYTES = 10_000_000

_DEFINITION_BYTES = 120
"""Markup around one stored thumbnail, with room to spare."""

_TEXT_SHARE = 0.5
"""Text may fill this share of the page before it is cut; the rest is for pictures."""


def write_report(run: ReportableRun, out: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Write the page of a run to ``out`` and return it.

    The file holds at most ``max_bytes``: long conversations are cut first where text alone would fill half of
    it, then thumbnails are left out from the least to the most telling, and the page says so. It is written
    beside ``out`` and moved into place, so a reader never sees half a page.

    Raises:
        UsageError: not even the bare numbers fit into ``max_bytes``.
        OSError: ``out`` cannot be written.
    """
    text = render(run, max_bytes=max_bytes)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)
    return out


def render(run: ReportableRun, *, max_bytes: int = MAX_BYTES) -> str:
    """The page as text, at most ``max_bytes`` in UTF-8. Raises UsageError where that is not enough."""
    template = _Template()
    builder = PageBuilder(run)
    for limits in LADDER:
        bare = replace(builder.build(limits), notes=_text_notes(limits))
        used = len(template.render(bare).encode("utf-8"))
        if used <= max_bytes * _TEXT_SHARE or (limits is LADDER[-1] and used <= max_bytes):
            return _with_thumbnails(template, bare, used, max_bytes)
    raise UsageError(f"a report of this run needs at least {used:,} bytes; max_bytes is {max_bytes:,}")


def _text_notes(limits: Limits) -> tuple[str, ...]:
    full = LADDER[0]
    if limits is full:
        return ()
    if not limits.cards:
        return ("The sample cards were left out to keep this file small.",)
    fewer = (
        f", and {limits.cards} samples a metric instead of {full.cards}" if limits.cards < full.cards else ""
    )
    return (
        f"Conversations are cut at {wording.count(limits.text)} characters{fewer}, to keep this file small.",
    )


def _with_thumbnails(template: _Template, bare: Page, used: int, max_bytes: int) -> str:
    """The page with as many thumbnails as fit, the most telling first."""
    ranked = _ranked_thumbnails(bare)
    budget = max_bytes - used
    while True:
        chosen: dict[str, Thumbnail] = {}
        left = budget
        for thumb in ranked:
            cost = len(thumb.uri) + _DEFINITION_BYTES
            if cost <= left:
                chosen[thumb.key] = thumb
                left -= cost
        missing = len(ranked) - len(chosen)
        note = (
            f"{wording.count(missing)} of {wording.count(len(ranked))} thumbnails were left out "
            "to keep this file small."
        )
        text = template.render(
            replace(bare, thumbs=chosen, notes=(*bare.notes, note) if missing else bare.notes)
        )
        over = len(text.encode("utf-8")) - max_bytes
        if over <= 0:
            return text
        if not chosen:
            return template.render(bare)
        budget = min(budget - over, sum(len(t.uri) for t in chosen.values()))


def _ranked_thumbnails(bare: Page) -> list[Thumbnail]:
    """Distinct thumbnails: every sample's first picture before any second one, the worst samples first."""
    places = [
        (index, card.rank, picture.thumb)
        for gallery in bare.galleries
        for card in gallery.cards
        for index, picture in enumerate(card.sample.pictures)
        if picture.thumb is not None
    ]
    places.sort(key=lambda place: place[:2])
    return list({thumb.key: thumb for _, _, thumb in places}.values())


def _source_hash(text: str) -> str:
    """The Content-Security-Policy source of an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _finalize(value: Any) -> Any:
    """Every text that a template prints without saying how: control and direction marks are named."""
    return wording.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


class _Template:
    """The page's template with its style and script, read once."""

    def __init__(self) -> None:
        loader = jinja2.PackageLoader("vlitqc_reports")
        env = jinja2.Environment(
            loader=loader,
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
        env.globals |= {"charts": charts, "share": wording.share, "unit_words": page.unit_words}
        self._css = loader.get_source(env, "css/base.css")[0]
        self._js = loader.get_source(env, "report.js")[0]
        self._template = env.get_template("report.html.j2")
        self._policy = "; ".join(
            (
                "default-src 'none'",
                f"style-src {_source_hash(self._css)}",
                f"script-src {_source_hash(self._js)}",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        )

    def render(self, shown: Page) -> str:
        """The page as text."""
        context: Mapping[str, Any] = {
            "page": shown,
            "card": shown.card,
            "css": Markup(self._css),  # noqa: S704 our own file
            "js": Markup(self._js),  # noqa: S704 our own file
            "policy": self._policy,
        }
        return self._template.render(context)
