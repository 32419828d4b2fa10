"""What the interactive parts of a page know of a run, computed once and then packed into any size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.analysis.histogram import histogram
from vlitqc_reports import wording
from vlitqc_reports.explorer.axes import Axis, axis
from vlitqc_reports.explorer.choice import Judged, choose
from vlitqc_reports.explorer.groups import COLUMNS, Clustering, Group, clusters, duplicates
from vlitqc_reports.explorer.maps import MOST_POINTS, projections
from vlitqc_reports.source import ReportableRun, is_numeric
from vlitqc_reports.wording import marked

_TASKS = 254
"""Tasks that are counted by name; the smaller ones are one, called "other tasks"."""
_NO_TASK = 255
_SMALL = 1_000_000
"""Bytes of two-byte codes up to which every metric has the finer axis."""

_BINS = 40
_AT_ONCE = 4
"""Columns that are read together: opening a run's many files takes long, and a column of millions is large."""

Arrays = dict[str, NDArray[Any]]


class Contents:
    """The readable records of a run, by place: place i is the i-th of them, ``rows[i]`` its row."""

    def __init__(self, run: ReportableRun) -> None:
        self._run = run
        self._card = run.scorecard
        self.seed = int(self._card["seed"])
        schema = run.take(()).schema
        wanted = ("row", "state", *COLUMNS, "duplicate_group", "duplicate_kind")
        groups = run.table([name for name in wanted if name in schema.names])
        states = groups["state"]
        readable = pc.not_equal(states, "unreadable")
        self.rows: NDArray[np.int64] = np.flatnonzero(readable.to_numpy())
        self.n_unreadable = len(states) - len(self.rows)
        metrics = [m for p in self._card["principles"] for m in p["metrics"]]
        named = [m for m in metrics if m["name"] in schema.names and is_numeric(schema.field(m["name"]).type)]
        self.values = self._read_values([m["name"] for m in named])
        self.metrics = [m for m in named if m["name"] in self.values]
        wide = 2 * len(self.rows) * len(self.metrics) <= _SMALL
        self.axes: dict[str, Axis] = {
            m["name"]: axis(m["name"], self.values[m["name"]], floor=_floor(m), wide=wide)
            for m in self.metrics
        }
        self.tasks, self.task_codes = read_tasks(run, self.rows)
        self.clusterings: list[Clustering] = clusters(run, groups, self.rows, seed=self.seed)
        self.duplicates: list[Group] = duplicates(run, groups)

    def _read_values(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """The values of each metric that has a finite one."""
        found: dict[str, NDArray[np.float64]] = {}
        for start in range(0, len(names), _AT_ONCE):
            table = self._run.table(names[start : start + _AT_ONCE])
            for name in table.column_names:
                values = pc.cast(table[name], pa.float64(), safe=False).to_numpy()[self.rows]
                if np.isfinite(values).any():
                    found[name] = values
        return found

    def choice(self, most: int) -> list[int]:
        """The rows that deserve a card, the most important first."""
        judged = [Judged(self.values[m["name"]], m.get("higher_is_better"), _floor(m)) for m in self.metrics]
        places = [np.searchsorted(self.rows, group).tolist() for group in self._groups()]
        chosen = choose(judged, places, n=len(self.rows), most=most, seed=self.seed)
        rows: list[int] = self.rows[chosen].tolist()
        return rows

    def _groups(self) -> list[list[int]]:
        """Rows that stand for groups: of each clustering the clusters in turn, then the duplicates side by side."""
        groups = [_in_turn(each.rows for each in found.top) for found in self.clusterings]
        return [*groups, [row for group in self.duplicates for row in group.rows]]

    def maps(
        self, stored: NDArray[np.int64] | None, method: str, most: int
    ) -> tuple[list[dict[str, Any]], Arrays]:
        """The maps of the stored places with ``most`` points at most, and their arrays."""
        rows = self.rows if stored is None else self.rows[stored]
        entries, arrays = [], Arrays()
        found = projections(self._run, rows, method=method, seed=self.seed, most=min(most, MOST_POINTS))
        for k, each in enumerate(found):
            entry, own = each.packed(f"map{k}")
            entries.append(entry)
            arrays |= own
        return entries, arrays

    def arrays(self, stored: NDArray[np.int64] | None) -> Arrays:
        """Codes, tasks and rows of the stored places; None for all of them."""
        at: Any = slice(None) if stored is None else stored
        found: Arrays = {f"m{k}": self.axes[m["name"]].codes[at] for k, m in enumerate(self.metrics)}
        found |= {f"c{k}": each.codes[at] for k, each in enumerate(self.clusterings)}
        found["task"] = self.task_codes[at]
        if stored is not None or self.n_unreadable:
            found["rows"] = self.rows[at].astype(np.uint32)
        return found

    def meta(self, anchors: Mapping[str, str], cards: Iterable[int] | None = None) -> dict[str, Any]:
        """All that there is to know beside the arrays.

        ``anchors`` are the ids of the metrics' parts of the page, ``cards`` the rows that have one; None
        for all.
        """
        with_card = frozenset(itertools.chain(*self._groups()) if cards is None else cards)
        return {
            "command": f"vlitqc filter {wording.shell_word(self._run.place)}",
            "n": len(self.rows),
            "n_unreadable": self.n_unreadable,
            "tasks": self.tasks,
            "metrics": [self._metric(k, m, anchors[m["name"]]) for k, m in enumerate(self.metrics)],
            "clusters": [each.packed(f"c{k}", with_card) for k, each in enumerate(self.clusterings)],
            "duplicates": [group.packed(with_card) for group in self.duplicates],
        }

    def _metric(self, k: int, metric: Mapping[str, Any], anchor: str) -> dict[str, Any]:
        name = metric["name"]
        found = self.axes[name]
        return {
            "name": name,
            "title": marked(wording.clip(str(metric["title"]), 80)),
            "unit": marked(wording.unit_words(str(metric["unit"])).strip()),
            "anchor": anchor,
            "higher_is_better": metric.get("higher_is_better"),
            "floor": _floor(metric),
            "n_scored": found.n_scored,
            "array": f"m{k}",
            "stops": found.stops,
            "below": found.below,
            "above": found.above,
            "histogram": self.histogram(metric),
        }

    def histogram(self, metric: Mapping[str, Any]) -> dict[str, Any]:
        """The scorecard's histogram, or one of the values where it has none."""
        given = metric.get("histogram")
        if given:
            return {"edges": given["edges"], "counts": given["counts"]}
        values = self.values[metric["name"]]
        values = values[np.isfinite(values)]
        counts, edges = histogram(values, _BINS)
        return {"edges": edges.tolist(), "counts": counts.tolist()}


def read_tasks(run: ReportableRun, rows: NDArray[np.int64]) -> tuple[list[dict[str, Any]], NDArray[np.uint8]]:
    """The tasks of these rows, the most frequent first, and of each row the place of its own there; 255 for none."""
    codes = np.full(len(rows), _NO_TASK, np.uint8)
    if not len(rows) or "task" not in run.take(()).column_names:
        return [], codes
    column = run.table(["task"])["task"].cast(pa.string()).combine_chunks().dictionary_encode()
    labels = column.dictionary.to_pylist()
    places = column.indices.fill_null(len(labels)).to_numpy(zero_copy_only=False)[rows]
    counts = np.bincount(places, minlength=len(labels) + 1)[:-1]
    order = sorted(range(len(labels)), key=lambda k: (-counts[k], labels[k]))
    order = [k for k in order if counts[k]]
    kept = order if len(order) <= _TASKS else order[: _TASKS - 1]
    position = np.full(len(labels) + 1, _NO_TASK, np.uint8)
    position[order] = len(kept)
    position[kept] = np.arange(len(kept))
    tasks = [{"label": marked(wording.clip(labels[k], 80)), "n": int(counts[k])} for k in kept]
    if len(kept) < len(order):
        rest = int(counts[order].sum() - counts[kept].sum())
        tasks.append({"label": "other tasks", "n": rest})
    return tasks, position[places]


def _in_turn(lists: Iterable[Sequence[int]]) -> list[int]:
    """The first of every list, then the second, and so on."""
    return [row for some in itertools.zip_longest(*lists) for row in some if row is not None]


def _floor(metric: Mapping[str, Any]) -> float | None:
    floor = metric.get("floor")
    return float(floor) if floor is not None and wording.is_number(floor) else None
