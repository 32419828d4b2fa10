"""How numbers and other people's text are written on a page."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeGuard

from markupsafe import Markup, escape

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but tab and newline are text
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, embeddings, overrides, isolates
    "\u200b\u2028\u2029\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"  # invisible or line-breaking
    "\ud800-\udfff"  # lone surrogates: legal in JSON, not in UTF-8
    "\ufffe\uffff\U000e0000-\U000e007f"  # non-characters and invisible tags
    "]"
)
_UNSAFE_RUN = re.compile(f"({_UNSAFE.pattern})\\1*")

MINUS = "\u2212"

SHARES = frozenset({"share", "fraction"})
"""Units whose values are printed in percent."""

_NAMES = {
    "at_least": "instructions that a task needs to count",
    "chao1": "tasks or kinds in unlimited data (Chao1)",
    "coverage": "share of the next ones that is known (Good–Turing)",
    "entropy": "evenness (normalised entropy)",
    "eps": "cosine distance of neighbours",
    "exact": "exact duplicates",
    "gini": "Gini coefficient",
    "groups": "groups of duplicates",
    "imbalance_ratio": "largest to smallest",
    "instances": "objects",
    "mean_logp": "mean log-probability a token",
    "min_samples": "neighbours of a cluster’s core",
    "n_clusters": "clusters",
    "n_distinct_images": "different pictures",
    "distinct_images": "different pictures",
    "n_images": "pictures",
    "n_images_clustered": "pictures given to the clustering",
    "n_instances": "objects",
    "n_others": "other pictures compared with",
    "n_pictures": "pictures",
    "n_responses": "responses",
    "n_responses_clustered": "responses given to the clustering",
    "n_untagged": "instructions without a tag",
    "near_images": "near-duplicate pictures",
    "near_images_compared": "pictures compared",
    "near_text": "near-duplicate texts",
    "near_text_left_out": "samples not drawn for near-duplicate texts",
    "noise_share": "share in no cluster",
    "oov_share": "share of unknown words",
    "other_share": "share that fits no task",
    "ppl_conditional": "perplexity given the instruction",
    "ppl_response": "perplexity of the response alone",
    "share_below_50": "share with a percentile below 50",
    "slor": "SLOR",
    "token_probability": "typical probability of a token",
    "turns_judged": "turns judged",
    "worst": "worst picture",
}
"""Parts and details of the metrics whose own names are no words."""


def _run_name(run: str) -> str:
    name = f"U+{ord(run[0]):04X}"
    return name if len(run) == 1 else f"{name} ×{len(run)}"


def plain(text: str) -> str:
    """Text in which characters that hide or turn other text are named in brackets; safe where markup is not.

    Carriage returns before a newline are dropped, as HTML drops them. A run of one character is named once
    with its length, so that the result is never much longer than the text.
    """
    return _UNSAFE_RUN.sub(lambda m: f"[{_run_name(m[0])}]", text.replace("\r\n", "\n"))


def visible(text: str) -> Markup:
    """Escaped text for the body of a page; characters that hide or turn other text become badges."""
    pieces: list[Markup] = []
    end = 0
    text = text.replace("\r\n", "\n")
    for match in _UNSAFE_RUN.finditer(text):
        pieces.append(escape(text[end : match.start()]))
        pieces.append(Markup('<span class="ctl">{}</span>').format(_run_name(match[0])))
        end = match.end()
    pieces.append(escape(text[end:]))
    return Markup().join(pieces)


def marked(text: str) -> str:
    """Text for the page's own script: characters that hide or turn text become ``\\x01U+202E ×3\\x02``.

    The script shows what stands between the two as a badge, as ``visible`` does; neither is left otherwise.
    """
    return _UNSAFE_RUN.sub(lambda m: f"\x01{_run_name(m[0])}\x02", text.replace("\r\n", "\n"))


def clip(text: str, limit: int) -> str:
    """At most ``limit`` characters, with a mark that says how many were cut."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{count(len(text) - limit)} more characters]"


def _signed(text: str) -> str:
    if text.startswith("-"):
        return text[1:] if not text.strip("-0.,") else MINUS + text[1:]
    return text


def _decimals(value: float) -> int:
    """Digits after the point that leave three significant ones."""
    if value == 0 or not math.isfinite(value):
        return 0
    return max(0, 2 - math.floor(math.log10(abs(value))))


def number(value: float, decimals: int | None = None) -> str:
    """Three significant digits, thousands grouped; whole numbers stay whole; very small ones in powers."""
    if not math.isfinite(value):
        return "∞" if value > 0 else f"{MINUS}∞" if value < 0 else "none"
    if decimals is None:
        if float(value).is_integer() and abs(value) < 1e15:
            return _signed(f"{int(value):,}")
        if abs(value) < 1e-4 or abs(value) >= 1e15:
            return _signed(f"{value:.2e}")
        decimals = _decimals(value)
    return _signed(f"{value:,.{decimals}f}")


def quantity(value: float, unit: str) -> str:
    """A value with a percent sign where its unit is one; other units stand beside the metric's name."""
    if unit in SHARES:
        return percent(value)
    return number(value) + ("%" if unit.startswith("%") else "")


def unit_words(unit: str) -> str:
    """The unit as it follows a number: " tasks", "% of turns", or nothing."""
    if unit in {"", "1", "score", "none"} or unit in SHARES:
        return ""
    return clip(unit if unit.startswith("%") else f" {unit}", 60)


def is_missing(value: object) -> bool:
    """No value: None, or a number that is none."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell(value: Any) -> str:
    """A value of any column as it stands in a table, at most 200 characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if is_number(value) else clip(str(value), 200)


def place(file: Any, line: Any) -> str:
    """``data.jsonl:58``: the head of the page names the whole input, so the file's name is enough here."""
    name = "" if is_missing(file) else clip(PurePath(str(file)).name, 200)
    return name if is_missing(line) else f"{name}:{int(line)}"


def setting(value: float) -> str:
    """A number that a person has set, such as a floor: as short as it was written."""
    return _signed(f"{value:,.10g}")


def label(name: str) -> str:
    """A column's name as a person reads it."""
    text = clip(name.replace("_", " "), 80)
    return text[:1].upper() + text[1:]


def part(name: str) -> str:
    """What a part or a detail of a metric is called."""
    return _NAMES.get(name) or name.replace("_", " ")


def shell_word(path: str) -> str:
    """A path as a word of the shell that is no option.

    One with hidden characters stands in bash's own notation, in which they can be seen.
    """
    path = f"./{path}" if path.startswith("-") else path
    if plain(path) == path and "\n" not in path:
        return shlex.quote(path)
    escaped = "".join(
        f"\\U{ord(c):08x}" if plain(c) != c or c == "\n" else f"\\{c}" if c in "\\'" else c for c in path
    )
    return f"$'{escaped}'"


def sentence(text: str) -> str:
    """The text with a capital first and a full stop at its end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text[-1] in ".!?" else ".")


def count(n: float) -> str:
    """A whole number with its thousands grouped."""
    return f"{int(n):,}"


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent; never 0% for something, never 100% for not quite all."""
    return percent(part / whole) if whole else "–"


def percent(fraction: float) -> str:
    """A fraction in percent; never 0% for something, never 100% for not quite all."""
    value = 100 * fraction
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.9 < value < 100:
        return ">99.9%"
    return f"{value:.0f}%" if abs(value - round(value)) < 1e-9 else f"{value:.1f}%"


def span(low: float, high: float, decimals: int | None = None) -> str:
    """``low–high``; "to" where a minus sign would run into the dash."""
    if decimals is None:
        decimals = span_decimals(low, high)
    if low == high:
        return setting(low)
    if float(low).is_integer() and float(high).is_integer():
        decimals = 0
    a, b = number(low, decimals), number(high, decimals)
    return f"{a} to {b}" if MINUS in a + b else f"{a}–{b}"


def span_decimals(low: float, high: float) -> int | None:
    """Digits after the point that keep two significant digits of the width; None where it has none."""
    width = high - low
    if not math.isfinite(width) or width <= 0:
        return None
    return min(8, max(0, 1 - math.floor(math.log10(width))))


def scale(bounds: Sequence[float | None], unit: str = "") -> str:
    """The bounds of a metric in words; shares in percent."""
    if unit in SHARES:
        return "0% to 100%"
    low, high = (None if b is None or not math.isfinite(b) else b for b in bounds)
    if low is None:
        return "any number" if high is None else f"up to {number(high)}"
    return f"{number(low)} and up" if high is None else f"{number(low)} to {number(high)}"


def direction(higher_is_better: bool | None) -> str:
    """Which end is the better one, in words with an arrow."""
    if higher_is_better is None:
        return "↕ neither end is better"
    return "↑ higher is better" if higher_is_better else "↓ lower is better"


def size(n_bytes: float) -> str:
    """Bytes in decimal units."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= power:
            return f"{number(n_bytes / power, 1)} {unit}"
    return f"{count(n_bytes)} bytes"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{number(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def is_number(value: object) -> TypeGuard[float]:
    """A finite number that is not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def quantiles(value: Any) -> dict[str, float]:
    """The ``p5``, ``p50``… of a mapping (or of its "quantiles"), in order; empty where there are none."""
    if not isinstance(value, Mapping):
        return {}
    inner = value.get("quantiles")
    found = inner if isinstance(inner, Mapping) else value
    named = {k: v for k, v in found.items() if re.fullmatch(r"p\d{1,3}", str(k)) and is_number(v)}
    return dict(sorted(named.items(), key=lambda item: int(item[0][1:])))
