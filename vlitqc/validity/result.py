"""What an experiment found: ``validity.json``. Its JSON Schema is ``validity.schema.json`` beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.engine.disk import write_json
from vlitqc.errors import UsageError
from vlitqc.validity.corruptions import Corruption
from vlitqc.validity.detection import Estimate, auc, beyond, movement, quantile, trend

if TYPE_CHECKING:
    import pandas as pd

    from vlitqc.engine.run import Run

FORMAT = 1
NAME, SUFFIX = "validity.json", ".validity.json"
FEWEST = 5
"""Pairs below which there is no AUC: an interval of fewer says nothing."""

QUANTILES = (1, 5, 50, 95, 99)
CAUGHT = {"p01": 0.01, "p05": 0.05}

NOTICED, NOTICED_BY = 0.9, {"matching_degree": 0.83, "matching_percentile": 0.83}
"""The AUC that is asked of a metric under its own corruption."""
UNMOVED = 0.6
"""Below this a metric is said not to move."""
NO_LIMIT = frozenset(("swapped_entities", "swapped_numbers", "swapped_colours", "swapped_relations"))
"""Corruptions of one word (Hsieh et al., SugarCrepe, NeurIPS 2023), near chance for most models: nothing is asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Validity:
    """Which metric notices which corruption of some data: ``vlitqc.validate`` returns it.

    ``run`` is the finished run of the same data, if any; ``beside``, a file beside the input.
    """

    found: Mapping[str, Any]
    run: Run | None = None
    beside: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it in what JSON has; its schema is ``vlitqc.validity.result.schema()``."""
        return dict(self.found)

    @property
    def cells(self) -> pd.DataFrame:
        """One row a metric and corruption, at the strongest strength."""
        import pandas as pd

        return pd.DataFrame(self.found["cells"]).drop(columns="by_strength", errors="ignore")

    def place(self) -> Path:
        """Where ``write`` puts it: ``validity.json`` in the run of this data and profile, else beside the input.

        Raises UsageError where there is neither.
        """
        if self.run is not None and self.run.info["profile"]["sha256"] == self.found["profile_sha256"]:
            return self.run.path / NAME
        if self.beside is None:
            raise UsageError("this result is of no input; name the file to write")
        return self.beside

    def write(self, out: str | Path | None = None) -> Path:
        """Write or replace the JSON file and return it; by default in its ``place``, where the run's page is written
        again with it.

        Raises UsageError where something else is there, RunError where it cannot be written.
        """
        target = Path(out) if out is not None else self.place()
        check_place(target)
        write_json(target, self.found)
        if out is None and self.run is not None and target.parent == self.run.path:
            if self.run.mirror:
                self.run.mirror.push(target.name)
            self.run.report()
        return target


def check_place(path: Path) -> None:
    """Raise UsageError where no result may be written: not a JSON file, or something else that is there."""
    if path.suffix != ".json":
        raise UsageError(f"{path}: expected a file FILE.json")
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not {"format", "corruptions", "cells"} <= found.keys():
        raise UsageError(f"{path} is there and is no result of validate; choose another output")


def schema() -> dict[str, Any]:
    """The published JSON Schema of ``validity.json``."""
    text = resources.files(__package__).joinpath("validity.schema.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """A metric's values on clean and on corrupted cases, place by place; NaN for null.

    ``records`` are the numbers of the cases that the corruption left, of ``of`` that were drawn. ``halves``: the
    places are random halves of them; else they are the cases themselves.
    """

    clean: NDArray[np.float64]
    corrupted: NDArray[np.float64]
    records: NDArray[np.int64]
    of: int
    halves: bool = False


def metric_section(section: Mapping[str, Any], scores: NDArray[np.float64] | None) -> dict[str, Any]:
    """A metric on the clean records: its section of the scorecard, and its scores of records where it has any."""
    known = scores[np.isfinite(scores)] if scores is not None else np.empty(0)
    return {
        "version": section["version"],
        "level": section["level"],
        "principle": section["principle"],
        "higher_is_better": section["higher_is_better"],
        "value": _short(section["value"]),
        "reason": section["reason"],
        "quantiles": {f"p{q:02}": _short(quantile(known, q / 100)) for q in QUANTILES}
        if len(known)
        else None,
    }


def cell(
    section: Mapping[str, Any], corruption: Corruption, by_strength: Sequence[Pairs], *, seed: int
) -> dict[str, Any]:
    """One metric under one corruption; what is not told of a strength is at the strongest."""
    name = section["name"]
    direction = corruption.targets.get(name)
    role = "target" if direction else "may_move" if name in corruption.may_move else "off"
    strongest = by_strength[-1]
    reason = section["reason"] or _too_few(strongest)
    steps: list[dict[str, Any]] = []
    order = None
    if section["reason"] is None:
        steps = [
            {"strength": strength, **_step(pairs, direction, seed)}
            for strength, pairs in zip(corruption.strengths, by_strength, strict=True)
        ]
        order = _trend(corruption.strengths, by_strength, seed)
    last: dict[str, Any] = steps[-1] if steps else {"n": 0, "became_null": 0.0, "auc": None, "interval": None}
    wanted = _wanted(name, corruption.name, role)
    return {
        "metric": name,
        "corruption": corruption.name,
        "role": role,
        "direction": direction,
        "why": corruption.may_move.get(name) if role == "may_move" else None,
        "n": last["n"],
        "became_null": last["became_null"],
        "auc": last["auc"],
        "interval": last["interval"],
        **_told("spearman", "spearman_interval", order),
        "by_strength": steps,
        "reason": reason,
        "wanted": wanted,
        "holds": _holds(wanted, last["auc"], last["interval"]),
    }


def _step(pairs: Pairs, direction: Any, seed: int) -> dict[str, Any]:
    known = np.isfinite(pairs.clean)
    both = known & np.isfinite(pairs.corrupted)
    clean, corrupted = pairs.clean[both], pairs.corrupted[both]
    found: Estimate | None = None
    if len(clean) >= FEWEST:
        if direction is None:
            found = movement(clean, corrupted, seed=seed)
        else:
            sides = (clean, corrupted) if direction == "falls" else (corrupted, clean)
            found = auc(*sides, seed=seed)
    caught = None
    if found and direction is not None and not pairs.halves:
        caught = {
            point: _round(
                beyond(pairs.clean[known], pairs.corrupted[known], share=share, direction=direction)
            )
            for point, share in CAUGHT.items()
        }
    lost = float(np.mean(~both[known])) if np.count_nonzero(known) >= FEWEST else 0.0
    return {
        "n": len(clean),
        "became_null": _round(lost),
        **_told("auc", "interval", found),
        "caught": caught,
    }


def _trend(strengths: Sequence[float], by_strength: Sequence[Pairs], seed: int) -> Estimate | None:
    """The trend over the places that have a value everywhere; None for a fault that is there or not."""
    if len(strengths) < 2:
        return None
    common = by_strength[0].records
    for pairs in by_strength[1:]:
        common = np.intersect1d(common, pairs.records)
    if any(len(pairs.clean) == 0 for pairs in by_strength):
        return None
    if by_strength[0].halves:
        # Halves of other records are other halves.
        if any(len(pairs.records) != len(common) for pairs in by_strength):
            return None
        columns = [by_strength[0].clean, *(pairs.corrupted for pairs in by_strength)]
    else:
        at = [np.searchsorted(pairs.records, common) for pairs in by_strength]
        columns = [by_strength[0].clean[at[0]]]
        columns += [pairs.corrupted[place] for pairs, place in zip(by_strength, at, strict=True)]
    scores = np.stack(columns, axis=1)
    scores = scores[np.isfinite(scores).all(axis=1)]
    return trend([0.0, *strengths], scores, seed=seed) if len(scores) >= FEWEST else None


def _too_few(pairs: Pairs) -> str | None:
    """Why there is no AUC, if there is none."""
    known = np.isfinite(pairs.clean)
    both = int(np.count_nonzero(known & np.isfinite(pairs.corrupted)))
    if both >= FEWEST:
        return None
    what = "random halves" if pairs.halves else "records"
    if len(pairs.records) < FEWEST:
        return f"{len(pairs.records)} of {pairs.of} records have something to corrupt; {FEWEST} are needed"
    if np.count_nonzero(known) < FEWEST:
        return f"{np.count_nonzero(known)} of {len(known)} clean {what} have a value; {FEWEST} are needed"
    return (
        f"{both} of {np.count_nonzero(known)} {what} still have a value when corrupted; {FEWEST} are needed"
    )


def _wanted(metric: str, corruption: str, role: str) -> dict[str, float] | None:
    if role == "off":
        return {"below": UNMOVED}
    if role == "target" and corruption not in NO_LIMIT:
        return {"at_least": NOTICED_BY.get(metric, NOTICED)}
    return None


def _holds(
    wanted: Mapping[str, float] | None, found: float | None, interval: Sequence[float] | None
) -> bool | None:
    """Whether what is wanted is so; None where nothing is wanted or known.

    A two-sided AUC is above 0.5 by chance: a metric moves where the low end of its interval says so.
    """
    if wanted is None or found is None or interval is None:
        return None
    return found >= wanted["at_least"] if "at_least" in wanted else interval[0] < wanted["below"]


def _told(value: str, interval: str, found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {value: None, interval: None}
    return {value: _round(found.value), interval: [_round(end) for end in found.interval]}


def _round(value: float) -> float:
    return round(float(value), 6)


def _short(value: float | None) -> float | None:
    """Six significant digits."""
    return None if value is None else float(f"{value:.6g}")
