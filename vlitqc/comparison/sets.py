"""What is compared: a run, or the part of a run that a filter kept or dropped."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlitqc.engine.inputs import home
from vlitqc.engine.mirror import is_url, local
from vlitqc.engine.run import Run
from vlitqc.engine.subset import LIMIT, summaries
from vlitqc.errors import RunError, UsageError
from vlitqc.filtering import audit
from vlitqc.formats.folder import DECISIONS, FILTER

MOST = 8
"""Data sets in one comparison: more colours and dashes the eye does not keep apart."""

_PARTS = ("kept", "dropped")


@dataclass(frozen=True, eq=False)
class DataSet:
    """Some records of a run: ``mask`` has one value a record, true for the readable ones that belong to it.

    ``filter`` is the ``.filter.json`` that the part comes from and ``part`` which one it is; both are None for a whole
    run, whose records are all that can be read.
    """

    name: str
    run: Run
    mask: NDArray[np.bool_]
    filter: Path | None = None
    part: str | None = None

    @property
    def n(self) -> int:
        """How many records it has."""
        return int(self.mask.sum())

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The scorecard's metric sections by name, over these records alone."""
        return self.run.metrics() if self.part is None else summaries(self.run, self.mask, limit=LIMIT)

    def is_of(self, other: DataSet) -> bool:
        """Whether both are records of the same input, so that record k of one run is record k of the other."""
        ours, theirs = self.run.info["input"]["sha256"], other.run.info["input"]["sha256"]
        return ours == theirs and len(self.mask) == len(other.mask)

    def repeats(self, other: DataSet) -> bool:
        """Whether both are known to be the same records in the same order with the same scores."""
        if not (self.is_of(other) and np.array_equal(self.mask, other.mask)):
            return False
        if self.run.path.absolute() == other.run.path.absolute():
            return True
        ours, theirs = self.metrics, other.metrics
        return ours.keys() == theirs.keys() and all(
            ours[name]["value"] == theirs[name]["value"]
            and (
                ours[name]["level"] == "dataset"
                or np.array_equal(self.values(name), other.values(name), equal_nan=True)
            )
            for name in ours
        )

    def values(self, name: str) -> NDArray[np.float64]:
        """A column of the table of scores, one value a record; NaN without a score and outside the data set."""
        column = self.run.table([name])[name]
        found = np.array(column.to_numpy(), np.float64)  # a copy: Arrow's own memory is not ours to write to
        found[~self.mask] = np.nan
        return found


def open_sets(paths: Sequence[str | Path | Run], *, filtered: bool = False) -> list[DataSet]:
    """The data sets of ``find_sets`` to compare.

    Raises UsageError for fewer than two or more than eight, and what ``find_sets`` raises.
    """
    found = find_sets(paths, filtered=filtered)
    if len(found) < 2:
        raise UsageError(_too_few(found))
    if len(found) > MOST:
        raise UsageError(f"{len(found)} data sets were named; compare at most {MOST} at a time")
    return found


def find_sets(paths: Sequence[str | Path | Run], *, filtered: bool = False) -> list[DataSet]:
    """The data sets of these paths, in order: runs, inputs that were scored, and outputs of filters.

    A ``.filter.json``, and the file or folder of kept or dropped records beside it, is that part of the run which was
    filtered. ``filtered`` puts after each run what its latest filter kept.

    Raises RunError for what is none of these, UsageError for an empty one.
    """
    places = [
        path if isinstance(path, Run) or is_url(path) else _filter_at(local(path)) or Path(path)
        for path in paths
    ]
    runs = {i: _run(place) for i, place in enumerate(places) if not isinstance(place, tuple)}
    found: list[DataSet] = []
    for i, place in enumerate(places):
        if isinstance(place, tuple):
            found.append(_part(*place, list(runs.values())))
            continue
        run = runs[i]
        found.append(DataSet(_name(run), run, readable(run)))
        if filtered:
            decisions = audit.latest(run)
            if decisions is None:
                raise UsageError(_no_filter(run))
            found.append(_part(decisions, "kept", [run]))
    return _told_apart(found)


def _too_few(found: Sequence[DataSet]) -> str:
    """What is missing where fewer than two data sets were named."""
    if not found:
        return "no data set was named; name two or more: runs, inputs that were scored, or outputs of filters"
    (one,) = found
    if one.filter is None:
        return (
            f"one data set was named, {one.name}; name two or more, or pass --filtered to hold a run against what its "
            "filter kept"
        )
    both = shlex.join(["vlitqc", "compare", one.run.place, str(one.filter)])
    return f"one data set was named, {one.name}; name its run, too: {both}"


def _no_filter(run: Run) -> str:
    """Why a run has no filter's result: it never had one, or the latest is of an earlier run, or was moved."""
    again = f"filter the data again: {shlex.join(['vlitqc', 'filter', run.place])}"
    folder, stem = home([Path(path) for path in run.info["input"]["paths"]])
    for decisions in (*audit.remembered(run), folder / f"{stem}{DECISIONS}"):
        if audit.RUN_SHA256 in audit.metadata_of(decisions):
            return f"{decisions} is of another run than the one that is now in {run.place}; {again}"
    if moved := next(iter(audit.remembered(run)), None):
        filter = moved.name.removesuffix(DECISIONS) + FILTER
        return (
            f"{moved} is not there any more; name {filter} where it is now instead of --filtered, or {again}"
        )
    return f"{run.place} has no filter's result; {again.replace(' again', '', 1)}"


def _told_apart(sets: Sequence[DataSet]) -> list[DataSet]:
    """Of data sets with the same name the folder that each lies in becomes a part of it."""
    times = Counter(data.name for data in sets)
    return [
        data if times[data.name] == 1 else replace(data, name=f"{_place(data).parent.name}/{data.name}")
        for data in sets
    ]


def _place(data: DataSet) -> Path:
    return (data.filter or data.run.path).absolute()


def readable(run: Run) -> NDArray[np.bool_]:
    """Which records of a run can be read."""
    mask: NDArray[np.bool_] = pc.not_equal(run.table(["state"])["state"], "unreadable").to_numpy()
    return mask


def _run(place: str | Path | Run) -> Run:
    return place if isinstance(place, Run) else Run.open(place)


def _name(run: Run) -> str:
    return run.path.absolute().name.removesuffix(".vlitqc")


def _filter_at(path: Path) -> tuple[Path, str] | None:
    """The file of decisions that an output of a filter stands for, and the part; None for any other path."""
    for ending in (FILTER, DECISIONS):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending) + DECISIONS), "kept"
    for part in _PARTS:
        stem, dot, _ = path.name.rpartition(f".{part}")
        told = audit.filter_of(path.with_name(stem + DECISIONS)) if dot else None
        if told is not None and told["written"].get(part, {}).get("name") == path.name:
            return path.with_name(stem + DECISIONS), part
    return None


def _run_of(filter: Path, place: str) -> Run:
    """The run that a filter was of, where it was then."""
    if not is_url(place) and not Path(place).exists():
        raise RunError(
            f"{filter} is of the run {place}, which is not there any more; name the run where it is now, too "
            f"(vlitqc compare RUN {shlex.quote(str(filter))}), or filter the data again"
        )
    return Run.open(place)


def _part(decisions: Path, part: str, runs: Sequence[Run]) -> DataSet:
    """A part that a filter made of its run, which may be one of ``runs`` and else is where it was."""
    filter = decisions.with_name(decisions.name.removesuffix(DECISIONS) + FILTER)
    told = audit.filter_of(decisions)
    if told is None:
        missing = next((path for path in (filter, decisions) if not path.is_file()), None)
        why = (
            f"{missing} does not exist" if missing else f"{filter} and {decisions.name} are not of one filter"
        )
        its_run = audit.metadata_of(decisions).get(audit.RUN_SHA256, b"").decode()
        place = next((run.place for run in runs if audit.run_sha256(run) == its_run), "RUN")
        raise RunError(f"{why}; filter the data again: {shlex.join(['vlitqc', 'filter', place])}")
    sha256 = told["run"]["sha256"]
    known = (run for run in runs if audit.run_sha256(run) == sha256)
    run = next(known, None) or _run_of(filter, told["run"]["path"])
    if audit.run_sha256(run) != sha256:
        again = shlex.join(["vlitqc", "filter", run.place])
        raise RunError(
            f"{filter} is of an earlier run than the one that is now in {run.place}; filter the data again: {again}"
        )
    try:
        fates = pq.read_table(decisions, columns=["fate"])["fate"]
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{decisions} cannot be read ({error}); filter the data again") from error
    of_run = readable(run)
    if len(fates) != len(of_run):
        raise RunError(
            f"{decisions} has {len(fates):,} records and {run.place} {len(of_run):,}; filter again"
        )
    mask = pc.equal(fates, part).to_numpy() & of_run
    if not mask.any():
        raise UsageError(f"the filter of {filter} has no {part} record; there is nothing to compare")
    return DataSet(f"{filter.name.removesuffix(FILTER)} {part}", run, mask, filter, part)
