"""Whether numbers of two data sets are on one scale: the same profile, versions of the metrics and models."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vlitqc.comparison.sets import DataSet
from vlitqc.errors import RunError


class Scales:
    """Which metrics of several data sets share a scale; ``faults`` say of each set what does not."""

    def __init__(self, sets: Sequence[DataSet], letters: Sequence[str]) -> None:
        self._sets = sets
        self._letters = letters
        self.faults = [fault for i in range(1, len(sets)) if (fault := self._fault(i)) is not None]

    def same(self, name: str) -> list[bool]:
        """Of each data set whether it has the metric on the scale of the first one that has it."""
        scales = [_scale(data, name) for data in self._sets]
        first = next(scale for scale in scales if scale is not None)
        return [scale == first for scale in scales]

    def _fault(self, i: int) -> str | None:
        first, other = self._sets[0], self._sets[i]
        a, b = (f"{self._letters[k]} ({self._sets[k].name})" for k in (0, i))
        one, two = (data.run.info["profile"] for data in (first, other))
        if one["name"] != two["name"]:
            return f"{a} was scored with profile {one['name']} and {b} with {two['name']}"
        if one["sha256"] != two["sha256"]:
            return (
                f"{a} and {b} were scored with different contents of profile {one['name']} "
                f"(sha256 {one['sha256'][:12]} and {two['sha256'][:12]})"
            )
        theirs = other.run.metrics()
        for name, section in first.run.metrics().items():
            if name not in theirs:
                continue
            if section["version"] != theirs[name]["version"]:
                return f"{name} is version {section['version']} in {a} and {theirs[name]['version']} in {b}"
            if _models(first, name) != _models(other, name):
                return f"the models of {name} in {a} are not those in {b}"
        return None


def _models(data: DataSet, name: str) -> list[tuple[str, ...]]:
    """Slot, name, revision and hash of the models of a metric."""
    slots = data.run.metrics()[name]["models"]
    return sorted(
        tuple(str(model[key]) for key in ("slot", "name", "revision", "sha256"))
        for model in data.run.info["models"]
        if model["slot"] in slots
    )


def _scale(data: DataSet, name: str) -> tuple[object, ...] | None:
    """What decides a metric's numbers: its version, models and options; None where the run has it not."""
    section = data.run.metrics().get(name)
    if section is None:
        return None
    try:
        entry = data.run.profile.metrics[name]
        options = json.dumps(dict(entry.options), sort_keys=True, default=str)
    except (RunError, KeyError):
        # An earlier version's run kept only the hash of its profile.
        options = data.run.info["profile"]["sha256"]
    return section["version"], tuple(_models(data, name)), options
