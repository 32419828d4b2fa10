"""Metric cards: what a metric measures, what it costs, how well it sees the faults that it is for, where it fails.

A card is a file ``cards/<metric>.toml`` in the package that registers the metric, also in a third party's::

    measures = "…"                       # what it measures, in prose
    formula = "…"                        # one line
    definition = "…"                     # how it is computed, exactly
    use = "…"                            # recommended use
    failures = [{ short = "one line", long = "what happens, and to what data" }]
    references = [{ title = "…", url = "https://…" }]
    [scales]                             # optional: a profile's unit, range and direction where they are others
    paper = "…"

Beside the cards lie three files that scripts write: ``cost.toml`` (``benchmarks/cost.py``), ``validity.toml``
(``docs/build_cards.py --validity``) and ``floors.toml`` (``benchmarks/floors.py``). What is not in them was not
measured, and a card says so.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import Any, TypeVar, get_args, get_type_hints

from vlitqc import profiles, registry
from vlitqc.errors import UsageError
from vlitqc.profiles import Profile
from vlitqc.types import MetricSpec

T = TypeVar("T")

COST, VALIDITY, FLOORS = "cost", "validity", "floors"
NO_FLOOR = "none: none has been set"
DATA_SET_FLOOR = "none: the value is one of the whole data set, and floors are for samples"
UNKNOWN_COST = "not measured for this profile"
NO_RUN = "not measured: no run of vlitqc validate with this profile is recorded here"


@dataclass(frozen=True, slots=True)
class Failure:
    """A known way in which a metric is wrong: in one line, and in full."""

    short: str
    long: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A paper, or a project's own page."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Prose:
    """What a person wrote of a metric; the fields are the keys of the card's file."""

    measures: str
    formula: str
    definition: str
    use: str
    failures: tuple[Failure, ...]
    references: tuple[Reference, ...]
    scales: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds of one core for 1,000 samples by set, or the reason why they are not known.

    ``estimate`` is what a model on paper says in their place.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    estimate: str | None = None

    def __str__(self) -> str:
        if self.seconds:
            told = " or ".join(f"{value:g} s ({name})" for name, value in self.seconds.items())
            return f"{told} of one core for 1,000 samples"
        return "; ".join(filter(None, (self.reason, self.estimate)))


@dataclass(frozen=True, slots=True)
class Cell:
    """How a metric answers to one corruption; fields as of ``cells`` in the result of ``vlitqc validate``.

    ``wanted`` is the AUC to reach.
    """

    corruption: str
    direction: str | None = None
    n: int = 0
    became_null: float = 0.0
    auc: float | None = None
    interval: Sequence[float] | None = None
    spearman: float | None = None
    spearman_interval: Sequence[float] | None = None
    wanted: float | None = None
    holds: bool | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """One metric on one data set: its own corruptions, and the one that moves it most although it should not."""

    data: str
    profile: str
    records: int
    parts: int
    version: str
    own: tuple[Cell, ...]
    off: Cell | None = None

    @property
    def unmoved(self) -> bool:
        """No corruption that it should not see moves it, to two digits of the AUC."""
        return self.off is not None and self.off.auc is not None and round(self.off.auc, 2) == 0.5


@dataclass(frozen=True, slots=True)
class Floor:
    """A profile's recommended floor, or none, and why.

    ``sets``: the point named by ``why`` in each set of clean data. ``caught``: the share of each corruption's records
    that falls below the floor.
    """

    floor: float | None
    why: str
    sets: Mapping[str, float] = field(default_factory=dict)
    caught: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that is known of one metric. ``prose`` is None where its package has no card of it.

    ``same``: profile → the one that computes the metric in the same way, and whose measurements hold for it.
    """

    spec: MetricSpec
    prose: Prose | None
    costs: Mapping[str, Cost]
    validations: tuple[Validation, ...]
    derived: Mapping[str, Floor]
    same: Mapping[str, str] = field(default_factory=dict)

    def cost(self, profile: Profile) -> Cost:
        """What it costs in a profile."""
        known = self.costs.get(_key(profile))
        if known is not None:
            return known
        entry = profile.metrics.get(self.spec.name)
        why = entry.unavailable if entry is not None else None
        return Cost(reason=f"not measured: {why}" if why else UNKNOWN_COST)

    def validity(self, profile: Profile) -> list[Validation]:
        """Its validations with a profile, data set by data set."""
        key = _key(profile)
        return [found for found in self.validations if found.profile == self.same.get(key, key)]

    def why_no_auc(self, profile: Profile) -> str | None:
        """Why there is no AUC on a corruption of its own, or None where there is one."""
        own = [cell for found in self.validity(profile) for cell in found.own]
        if any(cell.auc is not None for cell in own):
            return None
        entry = profile.metrics.get(self.spec.name)
        if entry is not None and entry.unavailable:
            return f"not measured: {entry.unavailable}"
        why = next((cell.reason for cell in own if cell.reason), None)
        if why:
            return f"not measured: {why}"
        # Where it could not be run there is no cost either, and that says why.
        known = self.costs.get(_key(profile))
        return (known.reason if known is not None else None) or NO_RUN

    def floor(self, profile: Profile) -> Floor:
        """The floor that a profile recommends for it, with where it comes from; or why there is none."""
        entry = profile.metrics.get(self.spec.name)
        value = entry.floor if entry is not None else None
        derived = self.derived.get(_key(profile))
        if derived is not None and derived.floor == value:
            return derived
        if self.spec.level == "dataset":
            return Floor(value, DATA_SET_FLOOR)
        return Floor(value, NO_FLOOR if value is None else "set by hand")

    def short(self, profile: Profile) -> list[tuple[str, str]]:
        """The card for a terminal: names and texts, of which a list has one line each."""
        told = self.spec.as_table()
        rows = [(name, told[name]) for name in ("title", "principle", "level", "what")]
        if self.prose is not None:
            rows.append(("formula", self.prose.formula))
        rows += [(name, told[name]) for name in ("unit", "range", "direction", "reduction")]
        scale = self.prose.scales.get(_key(profile)) if self.prose is not None else None
        if scale:
            rows.append((f"in {profile.name}", scale))
        rows.append(("models", profiles.served_by(profile, self.spec.name)))
        if self.prose is not None:
            rows.append(("cost", str(self.cost(profile))))
            rows += _listed("own faults", self._own(profile))
            rows += _listed("other faults", self._off(profile))
        floor = self.floor(profile)
        number = "" if floor.floor is None else f"{floor.floor:g}; "
        rows.append(("floor", f"{number}{floor.why}"))
        if self.prose is not None:
            rows += _listed("fails", [failure.short for failure in self.prose.failures])
        return rows + [(name, told[name]) for name in ("source", "version", "columns")]

    def as_json(self, profile: Profile) -> dict[str, Any]:
        """The spec in words, and the card in one profile, as JSON-able values."""
        return {
            **self.spec.as_table(),
            "profile": profile.name,
            "models": profiles.served_by(profile, self.spec.name),
            "card": None if self.prose is None else asdict(self.prose),
            "cost": asdict(self.cost(profile)),
            "validity": [asdict(found) for found in self.validity(profile)],
            "not_validated": self.why_no_auc(profile),
            "floor": asdict(self.floor(profile)),
        }

    def _own(self, profile: Profile) -> list[str]:
        why = self.why_no_auc(profile)
        if why is not None:
            return [why]
        by_set = {
            found.data: {cell.corruption: cell.auc for cell in found.own if cell.auc is not None}
            for found in self.validity(profile)
        }
        by_set = {data: told for data, told in by_set.items() if told}
        lines = [f"AUC on {', '.join(by_set)}"]
        for name in dict.fromkeys(name for told in by_set.values() for name in told):
            numbers = (f"{told[name]:.2f}" if name in told else "–" for told in by_set.values())
            lines.append(f"{name}: {', '.join(numbers)}")
        return lines

    def _off(self, profile: Profile) -> list[str]:
        """The one that moves it most, over all sets."""
        moved = [
            (found.off.auc, found.off.corruption, found)
            for found in self.validity(profile)
            if found.off is not None and found.off.auc is not None
        ]
        if not moved:
            return []
        auc, corruption, found = max(moved, key=lambda told: told[0])
        return [
            "none moves it" if found.unmoved else f"{corruption} moves it most: AUC {auc:.2f} ({found.data})"
        ]


def load(name: str) -> Card:
    """The card of a registered metric.

    Raises UnknownName for an unknown metric, and UsageError, naming the file and the key, for a card that does not
    fit.
    """
    package = registry.find(registry.METRICS, name).value.partition(":")[0].partition(".")[0]
    spec: MetricSpec = registry.load_metric(name).spec
    table = _table(package, name)
    return Card(
        spec,
        None if table is None else _build(Prose, table, f"{package}/cards/{name}.toml"),
        _costs(package, name),
        _validations(package, name),
        _derived(package, name),
        {profile: body["as"] for profile, body in _told_costs(package, name).items() if "as" in body},
    )


def measured_on(name: str) -> Mapping[str, Any]:
    """Where the costs of a metric's package were measured: ``vlitqc``, ``machine`` and, by name, ``sets``."""
    package = registry.find(registry.METRICS, name).value.partition(":")[0].partition(".")[0]
    found = _table(package, COST) or {}
    return {key: found[key] for key in ("vlitqc", "machine", "sets") if key in found}


def _key(profile: Profile) -> str:
    """The name by which measurements know a profile; none know a user's own, whatever it is called."""
    return profile.name if profile.where in profiles.names() else ""


def _listed(name: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(name if i == 0 else "", line) for i, line in enumerate(lines)]


# ---------------------------------------------------------------- files


@cache
def _table(package: str, name: str) -> dict[str, Any] | None:
    """The file ``cards/<name>.toml`` of a package, or None where it has none."""
    found = find_spec(package)
    if found is None or found.submodule_search_locations is None:
        return None
    file = resources.files(package).joinpath("cards", f"{name}.toml")
    if not file.is_file():
        return None
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{package}/cards/{name}.toml is not valid TOML: {error}") from error


def _told_costs(package: str, name: str) -> dict[str, dict[str, Any]]:
    told = (_table(package, COST) or {}).get("cost", {})
    return {profile: metrics[name] for profile, metrics in told.items() if name in metrics}


def _costs(package: str, name: str) -> dict[str, Cost]:
    where = f"{package}/cards/{COST}.toml"
    told = _told_costs(package, name)
    return {
        profile: _build(Cost, told[body["as"]] if "as" in body else body, where)
        for profile, body in told.items()
    }


def _validations(package: str, name: str) -> tuple[Validation, ...]:
    where = f"{package}/cards/{VALIDITY}.toml"
    found = []
    for run in (_table(package, VALIDITY) or {}).get("measured", []):
        if name in run.get("metrics", {}):
            shared = {key: run[key] for key in ("data", "profile", "records", "parts") if key in run}
            found.append(_build(Validation, {**shared, **run["metrics"][name]}, where))
    return tuple(found)


def _derived(package: str, name: str) -> dict[str, Floor]:
    where = f"{package}/cards/{FLOORS}.toml"
    found = {}
    for profile, metrics in (_table(package, FLOORS) or {}).items():
        if isinstance(metrics, dict) and name in metrics:
            body = metrics[name]
            told = {key: body[key] for key in ("sets", "caught") if key in body}
            why = body.get("point") or f"none: {body.get('reason', 'no reason is given')}"
            found[profile] = _build(Floor, {"floor": body.get("floor"), "why": why, **told}, where)
    return found


def _build(kind: type[T], table: Any, where: str) -> T:
    """A dataclass out of a TOML table, whose keys are its fields; lists of tables become tuples of dataclasses."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: expected a table of {kind.__name__.lower()}, found {table!r}")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    lacking = [
        name
        for name, f in known.items()
        if name not in table and f.default is MISSING and f.default_factory is MISSING
    ]
    if lacking:
        raise UsageError(f"{where} lacks the key {lacking[0]!r}")
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    parts: list[type[Any]] = [
        kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)
    ]
    part = parts[0] if parts else None
    if part is not None and isinstance(value, list):
        return tuple(_build(part, entry, where) for entry in value)
    if part is not None:
        return _build(part, value, where)
    if hint is str and not isinstance(value, str):
        raise UsageError(f"{where} = {value!r}: expected a text")
    return value.strip() if isinstance(value, str) else value
