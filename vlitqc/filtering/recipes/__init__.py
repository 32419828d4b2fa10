"""Recipes: rules and a selection in a file. Plain TOML, or YAML or JSON with the same keys, to be copied and changed.

::

    name = "mine"                         # by default the file's name
    title = "What it does"
    summary = "What it drops, for whom, and what it leaves alone."
    extends = ["clean", "own.toml"]       # recipes whose rules come first; a path starts at this file's folder
    floors = true                         # the floors that the run's profile recommends, as rules
    [[rules]]
    drop = { metric = "matching_degree", below = "p5", by = "task" }   # below or above: a level, or "floor"
    missing = "keep"                      # keep (default), drop or error: what becomes of records without a score
    needs = "matching_degree"             # left out, and said, where the run has no score of it
    because = "Why such records should go."
    name = "low match"                    # what tables call the rule, by default the condition itself
    [[rules]]
    drop = { issue = ["missing_image", "empty_turn"], severity = "error" }   # either key, or both
    [[rules]]
    keep = "text_only or image_readability > p5"    # drops what it is false of; a text is an expression
    [[rules]]
    drop = { and = [{ metric = "ifd", above = 1 }, { not = "text_only" }, { or = ["n_turns > 9", "n_images > 9"] }] }
    [selection]
    keep = "20%"                          # the fields of vlitqc.Selection

"floor" is the floor that the run's profile recommends for the metric; a rule whose floor the profile lacks is left
out, and said. ``{ where = "EXPRESSION", by = "task" }`` takes the relative levels of an expression in each group.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml

from vlitqc.errors import RunError, UnknownName, UsageError
from vlitqc.filtering.conditions import And, HasIssue, Not, Or, Threshold, Where
from vlitqc.filtering.decisions import floors as recommended
from vlitqc.filtering.levels import Level
from vlitqc.filtering.rules import Condition, Missing, Rule
from vlitqc.filtering.selection import Selection
from vlitqc.filtering.table import SEVERITIES

MAX_BYTES = 64 * 1024
MAX_NESTING = 16
FLOOR = "floor"
"""The level that stands for the floor of the run's profile."""

Made = TypeVar("Made")

_KEYS = ("name", "title", "summary", "extends", "floors", "rules", "selection")
_RULE_KEYS = ("drop", "keep", "missing", "needs", "because", "name")
_SUFFIXES = (".toml", ".yaml", ".yml", ".json")
_PLAIN = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
)


@dataclass(frozen=True)
class WrittenRule:
    """A rule as a recipe has it: what it compares with may depend on the run's profile.

    ``condition`` is what stands under ``drop``, or under ``keep`` where ``keeps``. ``needs`` are the metrics, and
    ``floors`` the metrics' floors, without which it is left out. ``place`` is where it is written.
    """

    condition: Any
    keeps: bool
    missing: Missing
    needs: tuple[str, ...]
    because: str
    name: str
    floors: tuple[str, ...]
    place: str

    def wants(self, metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
        """What a run with these metrics lacks for this rule, in words; None where it lacks nothing."""
        for name in (*self.needs, *self.floors):
            if name not in metrics:
                return f"this run has no metric {name}"
            if name in self.needs and not metrics[name]["n_scored"]:
                return f"no record has a score of {name}"
            if name in self.floors and metrics[name]["floor"] is None:
                return f"the run's profile recommends no floor for {name}"
        return None

    def rule(self, floor_of: Callable[[str], float]) -> Rule:
        """The rule, with ``floor_of`` a metric for its floor. Raises UsageError, naming the place."""
        key = "keep" if self.keeps else "drop"
        condition = _condition(self.condition, f"{self.place}: {key}", floor_of)
        return Rule(Not(condition) if self.keeps else condition, self.missing, self.because, self.name)

    @property
    def same_as(self) -> str:
        """Equal for two rules that do the same, wherever they are written and whatever is said of them."""
        return json.dumps([self.condition, self.keeps, self.missing, self.needs], sort_keys=True)


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe.

    ``rules`` begin with those of the recipes that it extends, each once. ``selection`` is its own, else that of the
    last recipe extended that has one. ``extends`` has each recipe that it extends, directly or not, once.
    ``text`` is the file's. ``sha256`` is over the file's bytes, followed by the ``sha256`` of each of
    ``extends``.
    """

    name: str
    title: str
    summary: str
    rules: tuple[WrittenRule, ...]
    floors: bool
    selection: Selection | None
    extends: tuple[Recipe, ...]
    sha256: str
    text: str

    def rules_for(self, metrics: Mapping[str, Mapping[str, Any]]) -> list[Rule]:
        """The rules for a run with these metrics (``Run.metrics()``), without those that it cannot serve."""
        rules = [
            written.rule(lambda name: float(metrics[name]["floor"]))
            for written in self.rules
            if written.wants(metrics) is None
        ]
        return [*rules, *(recommended(metrics) if self.floors and _has_floors(metrics) else ())]

    def left_out(self, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """A sentence for each rule that ``rules_for`` leaves out: which one, and what the run lacks for it."""
        told = [
            f"{written.place} is left out: {wanted}"
            for written in self.rules
            if (wanted := written.wants(metrics)) is not None
        ]
        if self.floors:
            floors = {name: m["n_scored"] for name, m in metrics.items() if m["floor"] is not None}
            told += [
                f"recipe {self.name}: the floor of {name} is left out: no record has a score of {name}"
                for name, n_scored in floors.items()
                if not n_scored
            ]
            if not floors:
                told.append(f"recipe {self.name}: the run's profile recommends no floor for what it scored")
        return told

    def as_json(self) -> dict[str, Any]:
        """Name, hash and text, also of the recipes that it extends: enough to read later what was done."""
        keys = ("name", "title", "sha256", "text")
        own, *others = [{key: getattr(r, key) for key in keys} for r in (self, *self.extends)]
        return {**own, "extends": others}


def names() -> list[str]:
    """The recipes that vlitqc ships."""
    folder = resources.files(__package__)
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load(name_or_path: str | Path) -> Recipe:
    """The recipe of that name, or of that file (.toml, .yaml, .yml or .json, which say what it is written in).

    Raises UnknownName for an unknown name; UsageError, naming the file, the rule and the key, for a file that is not
    there or does not fit; RunError for one that cannot be read.
    """
    return _load(str(name_or_path), Path(), (), {})


def load_all(names_or_paths: Sequence[str | Path]) -> Recipe:
    """One recipe for several: it extends them in this order. Of one it is that recipe itself. Raises as ``load``."""
    told = [str(one) for one in names_or_paths]
    if len(told) == 1:
        return load(told[0])
    table = {"name": " + ".join(Path(one).stem for one in told), "extends": told}
    return _recipe(table, f"extends = {json.dumps(told)}\n".encode(), "recipe", Path(), ("",), {})


def _load(told: str, folder: Path, trail: tuple[str, ...], loaded: dict[str, Recipe]) -> Recipe:
    """``folder`` is where relative paths start, ``trail`` the recipes that led here, ``loaded`` those read so far."""
    suffix = Path(told).suffix.lower()
    if "\0" in told:
        raise UsageError(f"recipe {told!r}: expected a name or a path")
    if suffix in _SUFFIXES:
        path = folder / told
        where, home, key = str(path), path.parent, os.path.realpath(path)
    elif told in names():
        where, home, key = told, folder, told
    elif "/" in told:
        raise UsageError(f"recipe file {told}: expected a name that ends in {', '.join(_SUFFIXES)}")
    else:
        raise UnknownName("recipe", told, names())
    if key in trail:
        circle = " → ".join((*trail[trail.index(key) :], key))
        raise UsageError(f"recipes extend each other in a circle: {circle}")
    if key not in loaded:
        shipped = resources.files(__package__).joinpath(f"{told}.toml")
        raw = _read(path) if suffix else shipped.read_bytes()
        try:
            table = _parsed(raw, suffix or ".toml", f"recipe {where}")
            loaded[key] = _recipe(table, raw, f"recipe {where}", home, (*trail, key), loaded)
        except RecursionError:
            raise UsageError(f"recipe {where} is nested too deeply") from None
        except ValueError as error:
            # Python's for a number of thousands of digits, PyYAML's for a date that is none.
            raise UsageError(f"recipe {where}: {error}") from None
    return loaded[key]


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UsageError(f"recipe file {path} does not exist")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RunError(f"recipe file {path} cannot be read: {error.strerror}") from error
    if len(text) > MAX_BYTES:
        raise UsageError(f"recipe file {path} is larger than {MAX_BYTES:,} bytes; is it a recipe?")
    return text


def _parsed(raw: bytes, suffix: str, where: str) -> Mapping[str, Any]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        read: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": _json}
        table = read.get(suffix, _yaml)(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} is not valid JSON: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not valid TOML: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    return _table(table, where, _KEYS)


def _json(text: str) -> Any:
    """Raises ValueError for keys given twice and for numbers that are none."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key '{twice}' stands there twice")
    return table


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _yaml(text: str) -> Any:
    """YAML of plain values. Raises ValueError for aliases, tags and keys given twice.

    Aliases let a small file stand for a huge one, and TOML has none of the three.
    """
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        at = f"line {token.start_mark.line + 1}"
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            raise ValueError(f"{at}: aliases (&name, *name) are not read; write it out")
        if isinstance(token, yaml.TagToken):
            raise ValueError(f"{at}: tags (!name) are not read; quote a text")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    ahead = [root] if root is not None else []
    while ahead:
        node = ahead.pop()
        at = f"line {node.start_mark.line + 1}"
        if node.tag not in _PLAIN:
            shown = node.tag.removeprefix("tag:yaml.org,2002:")
            raise ValueError(f"{at}: a value of type {shown} is not read; quote a text")
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(keys) < len(node.value):
                raise ValueError(f"{at}: a key is no text")
            twice = [key for key, n in Counter(keys).items() if n > 1]
            if twice:
                raise ValueError(f"{at}: the key '{twice[0]}' stands there twice")
            ahead += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            ahead += node.value
    return yaml.safe_load(text)


def _recipe(
    table: Mapping[str, Any],
    raw: bytes,
    where: str,
    home: Path,
    trail: tuple[str, ...],
    loaded: dict[str, Recipe],
) -> Recipe:
    floors = table.get("floors", False)
    if not isinstance(floors, bool):
        raise _unfit(where, "floors", floors, "true or false")
    listed = table.get("rules", [])
    if not isinstance(listed, list):
        raise _unfit(where, "rules", listed, "a list of tables")
    extended = [
        _load(name, home, trail, loaded) for name in _texts(table.get("extends", []), where, "extends")
    ]
    rules = {
        rule.same_as: rule
        for rule in (
            *(rule for recipe in extended for rule in recipe.rules),
            *(_rule(told, f"{where}, rule {i}") for i, told in enumerate(listed, 1)),
        )
    }
    selection = next((r.selection for r in reversed(extended) if r.selection is not None), None)
    if "selection" in table:
        selection = _selection(table["selection"], where)
    floors = floors or any(recipe.floors for recipe in extended)
    if not (rules or floors or selection):
        raise UsageError(f"{where} has no rules, no floors and no selection; see the recipe clean")
    every = {recipe.sha256: recipe for direct in extended for recipe in (*direct.extends, direct)}
    hashed = hashlib.sha256(raw)
    for recipe in every.values():
        hashed.update(bytes.fromhex(recipe.sha256))
    return Recipe(
        _text(table.get("name", Path(trail[-1]).stem), where, "name"),
        _text(table.get("title", ""), where, "title"),
        _text(table.get("summary", ""), where, "summary"),
        tuple(rules.values()),
        floors,
        selection,
        tuple(every.values()),
        hashed.hexdigest(),
        raw.decode("utf-8-sig"),
    )


def _rule(told: Any, place: str) -> WrittenRule:
    table = _table(told, place, _RULE_KEYS)
    if ("drop" in table) == ("keep" in table):
        raise UsageError(f"{place}: expected either drop or keep")
    missing = table.get("missing", "keep")
    if missing not in get_args(Missing):
        raise _unfit(place, "missing", missing, "keep, drop or error")
    keeps = "keep" in table
    told = table["keep" if keeps else "drop"]
    floors: dict[str, float] = {}
    # Built once here, so that what does not fit is said before a run is read.
    _condition(told, f"{place}: {'keep' if keeps else 'drop'}", lambda metric: floors.setdefault(metric, 0.0))
    return WrittenRule(
        told,
        keeps,
        missing,
        tuple(_texts(table.get("needs", []), place, "needs")),
        _text(table.get("because", ""), place, "because"),
        _text(table.get("name", ""), place, "name"),
        tuple(floors),
        place,
    )


def _condition(told: Any, at: str, floor_of: Callable[[str], float], depth: int = 0) -> Condition:
    if depth > MAX_NESTING:
        raise UsageError(f"{at} is nested more than {MAX_NESTING} deep")
    if isinstance(told, str):
        return _saying(at, lambda: Where(told))
    if not isinstance(told, Mapping) or not told:
        raise UsageError(
            f"{at} = {_shown(told)}: expected an expression, or a table such as {{ metric = …, below = … }}"
        )
    kind = next((key for key in _CONDITIONS if key in told), None)
    if kind is None:
        raise UnknownName(f"condition ({at})", str(next(iter(told))), _CONDITIONS)
    table = _table(told, at, _CONDITIONS[kind])
    if kind == "not":
        return Not(_condition(table["not"], f"{at}: not", floor_of, depth + 1))
    if kind in ("and", "or"):
        parts = table[kind]
        if not isinstance(parts, list) or not parts:
            raise _unfit(at, kind, parts, "a list of conditions")
        made = tuple(
            _condition(part, f"{at}: {kind} {i}", floor_of, depth + 1) for i, part in enumerate(parts, 1)
        )
        return And(made) if kind == "and" else Or(made)
    if kind == "metric":
        return _threshold(table, at, floor_of)
    if kind == "where":
        text, by = _text(table["where"], at, "where"), _by(table, at)
        return _saying(at, lambda: Where(text, by))
    severity = table.get("severity")
    if severity is not None and severity not in SEVERITIES:
        raise _unfit(at, "severity", severity, " or ".join(SEVERITIES))
    kinds = tuple(_texts(table.get("issue", []), at, "issue"))
    if not kinds and severity is None:
        raise _unfit(at, "issue", table["issue"], "the kinds of issues")
    return _saying(at, lambda: HasIssue(kinds, severity))


def _threshold(table: Mapping[str, Any], at: str, floor_of: Callable[[str], float]) -> Condition:
    metric, by = _text(table["metric"], at, "metric"), _by(table, at)
    if ("below" in table) == ("above" in table):
        raise UsageError(f"{at}: {metric}: expected either below or above")
    side: Literal["below", "above"] = "below" if "below" in table else "above"
    level = table[side]
    if level == FLOOR:
        level = floor_of(metric)
    if isinstance(level, bool) or not isinstance(level, int | float | str):
        raise _unfit(at, side, level, 'a number, or a level such as "p10"')
    return _saying(at, lambda: Threshold(metric, side, Level.parse(str(level)), by))


_CONDITIONS: dict[str, tuple[str, ...]] = {
    "and": ("and",),
    "or": ("or",),
    "not": ("not",),
    "metric": ("metric", "below", "above", "by"),
    "where": ("where", "by"),
    "issue": ("issue", "severity"),
    "severity": ("issue", "severity"),
}
"""The key that tells what a condition is, and the keys that go with it."""


def _selection(told: Any, where: str) -> Selection:
    at = f"{where}: selection"
    table = dict(_table(told, at, [f.name for f in fields(Selection)]))
    keep = table.get("keep", "")
    if isinstance(keep, bool) or not isinstance(keep, int | str):
        raise _unfit(at, "keep", keep, 'a number of records, or a share such as "20%"')
    if "keep" in table:
        table["keep"] = str(keep)
    for key in ("balance", "diversity"):
        if key in table:
            _text(table[key], at, key)
    quotas = table.get("quotas", {})
    if not isinstance(quotas, Mapping):
        raise _unfit(at, "quotas", quotas, "a table of tasks with at most so many of each")
    for task, most in quotas.items():
        _text(task, at, "quotas: a task")
        if isinstance(most, bool) or not isinstance(most, int):
            raise _unfit(at, f"quotas.{task}", most, "a whole number")
    tau = table.get("tau", 1)
    if isinstance(tau, bool) or not isinstance(tau, int | float):
        raise _unfit(at, "tau", tau, "a cosine")
    return _saying(at, lambda: Selection(**table))


# ---------------------------------------------------------------- values and their places


def _saying(at: str, make: Callable[[], Made]) -> Made:
    try:
        return make()
    except UsageError as error:
        raise UsageError(f"{at}: {error}") from None


def _table(told: Any, at: str, known: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(told, Mapping):
        raise UsageError(f"{at}: expected a table, got {_shown(told)}")
    for key in told:
        if key not in known:
            raise UnknownName(f"key of {at}", str(key), known)
    return told


def _text(value: Any, at: str, key: str) -> str:
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        raise _unfit(at, key, value, "a text")
    return value


def _texts(value: Any, at: str, key: str) -> Sequence[str]:
    """One text or a list of them."""
    if not isinstance(value, str | list):
        raise _unfit(at, key, value, "a text or a list of texts")
    return [_text(part, at, key) for part in ([value] if isinstance(value, str) else value)]


def _by(table: Mapping[str, Any], at: str) -> str | None:
    return _text(table["by"], at, "by") if "by" in table else None


def _unfit(at: str, key: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"{at}: {key} = {_shown(value)}: expected {expected}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _has_floors(metrics: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(m["floor"] is not None and m["n_scored"] for m in metrics.values())
