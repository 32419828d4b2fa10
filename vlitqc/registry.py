"""Names to objects through entry points. Nothing is imported before it is asked for.

Groups: ``vlitqc.metrics.<principle>`` (classes that fit ``SampleMetric`` or ``DatasetMetric``),
``vlitqc.models`` (backends), ``vlitqc.formats``, ``vlitqc.reports`` (forms of the report), ``vlitqc.servers``,
``vlitqc.comparisons`` (forms of the page that holds data sets against each other). A third
party's package declares them in its own ``pyproject.toml`` just as vlitqc does::

    [project.entry-points."vlitqc.metrics.readability"]
    shouting = "my_package.shouting:Shouting"
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
from typing import Any

from vlitqc.errors import NameCollision, UnknownName, UsageError
from vlitqc.types import Principle

METRICS = "vlitqc.metrics"
MODELS = "vlitqc.models"
FORMATS = "vlitqc.formats"
REPORTS = "vlitqc.reports"
COMPARISONS = "vlitqc.comparisons"
SERVERS = "vlitqc.servers"


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name: where it lives and who brings it, without importing it."""

    name: str
    group: str
    value: str
    owner: str
    _point: EntryPoint

    def load(self) -> Any:
        """Import the object. Raises UsageError, naming the owner, if its package is broken."""
        try:
            return self._point.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"'{self.name}' of package {self.owner} cannot be imported ({error}); reinstall or remove it"
            ) from error

    @property
    def principle(self) -> Principle:
        """The principle that a metric's group names."""
        suffix = self.group.removeprefix(METRICS + ".")
        try:
            return Principle(suffix)
        except ValueError:
            raise UsageError(
                f"metric '{self.name}' of package {self.owner} is registered under '{self.group}'; "
                f"the last word must be one of {', '.join(Principle)}"
            ) from None


@cache
def _points() -> tuple[tuple[str, EntryPoint], ...]:
    """Every entry point of a group of ours in this environment, with the name of its distribution.

    A distribution whose files cannot be read, for instance because they are not UTF-8, has none.
    """
    found: list[tuple[str, EntryPoint]] = []
    for distribution in distributions():
        try:
            points = [point for point in distribution.entry_points if point.group.startswith("vlitqc.")]
            if points:
                # Asking for the name parses the distribution's metadata, which takes long where there are hundreds.
                owner = distribution.name
                found += [(owner, point) for point in points]
        except (UnicodeDecodeError, TypeError):  # importlib's own, of a line without "="
            continue
    return tuple(found)


@cache
def entries(kind: str) -> dict[str, Entry]:
    """Everything registered under ``kind`` and its subgroups, by name, in the order of the principles.

    Raises NameCollision where two entry points share a name.
    """
    found: dict[str, Entry] = {}
    for owner, point in _points():
        if point.group != kind and not point.group.startswith(kind + "."):
            continue
        entry = Entry(point.name, point.group, point.value, owner, point)
        other = found.get(entry.name)
        if other is not None and (other.value, other.group) != (entry.value, entry.group):
            raise NameCollision(kind.split(".")[1].rstrip("s"), entry.name, (other.owner, entry.owner))
        found[entry.name] = entry
    if kind == METRICS:
        order = list(Principle)
        return dict(sorted(found.items(), key=lambda item: (order.index(item[1].principle), item[0])))
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Entry:
    """The entry called ``name``; raises UnknownName with near names."""
    known = entries(kind)
    if name not in known:
        raise UnknownName(kind.split(".")[1].rstrip("s"), name, known)
    return known[name]


def load_metric(name: str) -> Any:
    """The class of metric ``name``; raises UsageError where its spec contradicts its registration."""
    entry = find(METRICS, name)
    metric = entry.load()
    spec = metric.spec
    if spec.name != name or spec.principle is not entry.principle:
        raise UsageError(
            f"metric '{name}' of package {entry.owner}: its spec says {spec.name} under {spec.principle}, "
            f"its entry point {name} under {entry.principle}; make them agree"
        )
    return metric
