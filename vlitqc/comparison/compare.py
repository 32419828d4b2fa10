"""Data sets side by side. The result's JSON Schema is ``comparison.schema.json`` beside this file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.comparison import fair as equal_size
from vlitqc.comparison.differences import Difference, corrected, of_means
from vlitqc.comparison.fair import Fair, Progress
from vlitqc.comparison.markdown import markdown
from vlitqc.comparison.paper import COLUMNS, OF_METRIC
from vlitqc.comparison.scales import Scales
from vlitqc.comparison.sets import DataSet, open_sets
from vlitqc.engine.dataset import BINS
from vlitqc.engine.disk import writing
from vlitqc.engine.inputs import check_output
from vlitqc.engine.mirror import local, located
from vlitqc.engine.run import Run
from vlitqc.engine.subset import LIMIT
from vlitqc.errors import UsageError
from vlitqc.formats import check_name
from vlitqc.registry import COMPARISONS, find

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "vlitqc-comparison/1"
LETTERS = "ABCDEFGH"
REPLICATES = 20
ANOTHER_SCALE = "another scale"


def schema() -> dict[str, Any]:
    """The published JSON Schema of a comparison."""
    text = resources.files(__package__).joinpath("comparison.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@dataclass(frozen=True)
class Comparison:
    """Data sets side by side; ``found`` is what ``as_json`` gives."""

    found: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; the schema is ``vlitqc.comparison.compare.schema()``."""
        return self.found

    @property
    def table(self) -> pd.DataFrame:
        """One row a data set, columns as in the paper's Tables 3 and 4, values unrounded."""
        import pandas as pd

        index = pd.Index([data["name"] for data in self.found["sets"]], name="data set")
        values = {metric["name"]: metric["values"] for metric in self.found["metrics"]}
        columns: dict[str, list[int | float | None]] = {"n": [data["n"] for data in self.found["sets"]]}
        for column in COLUMNS:
            cells = values.get(column.metric, [None] * len(index))
            columns[column.head] = [cell["value"] if cell else None for cell in cells]
        return pd.DataFrame(columns, index=index).astype({column.head: float for column in COLUMNS})

    @property
    def differences(self) -> pd.DataFrame:
        """One row a metric and data set but the first: ``difference`` from the first with ``low`` and ``high``."""
        import pandas as pd

        names = [data["name"] for data in self.found["sets"]]
        rows = []
        for metric in self.found["metrics"]:
            for name, told in zip(names[1:], metric["differences"][1:], strict=True):
                low, high = told["interval"] or (None, None)
                row = {"metric": metric["name"], "data set": name, "difference": told["value"]}
                kept = ("p", "q", "clear", "holds", "method", "reason")
                rows.append(row | {"low": low, "high": high} | {key: told[key] for key in kept})
        return pd.DataFrame(rows)

    def markdown(self) -> str:
        """The tables in Markdown, for the card of a data set."""
        return markdown(self.found)

    def write(self, out: str | Path, *, form: str = "html") -> Path:
        """Write the page (an entry point of ``vlitqc.comparisons``) and return its place.

        Raises UsageError for a place in one of the runs or their inputs.
        """
        target = local(out)
        check_name(target)
        for one in self.found["sets"]:
            folder, _ = located(one["run"])
            check_output(target, folder, suffix=".html" if form == "html" else None, place=one["run"])
        write = find(COMPARISONS, form).load()
        with writing(target):
            written: Path = write(self.found, target)
        return written


def compare(
    *data: str | Path | Run,
    filtered: bool = False,
    mix_profiles: bool = False,
    replicates: int = REPLICATES,
    size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Hold data sets against each other; differences are against the first. No model runs.

    Args:
        data: Runs, run directories, inputs that were scored, and outputs of filters (``….filter.json``, or the kept
            or dropped records beside it), which stand for that part of their run.
        filtered: after each run also what its latest filter kept.
        mix_profiles: set values of different profiles, versions or models side by side, without differences.
        replicates: random parts of each data set that data-set metrics are computed over, at equal size; 0 for none.
        size: the common size in scored records; by default that of the smallest data set.
        seed: of the random parts.
        progress: told how many of how many random parts are done.

    Raises:
        UsageError: fewer than two data sets, or more than eight; another profile, version or model.
        RunError: a path is no run, no scored input and no output of a filter, or its files cannot be read.
    """
    for option, value, least in (("replicates", replicates, 0), ("size", size, 1)):
        if value is not None and value < least:
            raise UsageError(f"{option}={value}: expected {least} or more")
    if replicates == 1:
        raise UsageError("replicates=1: one random part has no spread; ask for 2 or more, or 0 for none")
    sets = open_sets(data, filtered=filtered)
    scales = Scales(sets, LETTERS)
    if scales.faults and not mix_profiles:
        raise UsageError(
            f"{scales.faults[0]}; score both alike, or pass --mix-profiles (mix_profiles=True) to see the values "
            "without differences"
        )
    sections = [one.metrics for one in sets]
    names = list(dict.fromkeys(name for section in sections for name in section))
    whole = [name for name in names if next(s[name] for s in sections if name in s)["level"] == "dataset"]
    at_size = equal_size.at_equal_size(
        sets,
        {name: scales.same(name) for name in whole},
        replicates=replicates,
        seed=seed,
        size=size,
        progress=progress,
    )
    metrics = [_metric(name, sets, scales, at_size.get(name)) for name in names]
    for i in range(1, len(sets)):
        family = corrected(metric["differences"][i] for metric in metrics)
        for metric, difference in zip(metrics, family, strict=True):
            metric["differences"][i] = asdict(difference) | {"printed": _printed(metric, difference, i)}
    return Comparison(
        _plain(
            {
                "schema": SCHEMA,
                "vlitqc": metadata.version("vlitqc"),
                "sets": [_told(i, sets, metrics) for i in range(len(sets))],
                "mixed": scales.faults,
                "options": {"replicates": replicates, "size": size, "seed": seed, "limit": LIMIT},
                "columns": [asdict(column) for column in COLUMNS],
                "metrics": metrics,
            }
        )
    )


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """With lists for tuples, as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return plain


def _told(i: int, sets: Sequence[DataSet], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    data = sets[i]
    info = data.run.info
    tested = [told for metric in metrics if i and (told := metric["differences"][i])["interval"] is not None]
    counts = {"n": len(tested)} | {key: sum(told[key] for told in tested) for key in ("clear", "holds")}
    return {
        "letter": LETTERS[i],
        "name": data.name,
        "run": data.run.address,
        "input": info["input"]["path"],
        "filter": str(data.filter.absolute()) if data.filter else None,
        "part": data.part,
        "n": data.n,
        "n_run": len(data.mask),
        "profile": {key: info["profile"][key] for key in ("name", "sha256")},
        "started": info["started"],
        "from_first": {"same": data.repeats(sets[0]), **counts} if i else None,
    }


def _metric(name: str, sets: Sequence[DataSet], scales: Scales, fair: Fair | None) -> dict[str, Any]:
    found = [data.metrics.get(name) for data in sets]
    first = next(section for section in found if section is not None)
    same = scales.same(name)
    column = OF_METRIC.get(name)
    told: dict[str, Any] = {
        key: first[key] for key in ("name", "title", "principle", "level", "unit", "bounds")
    }
    told |= {
        "higher_is_better": first["higher_is_better"],
        "column": column.head if column else None,
        "values": [
            _value(section, one_scale) if section else None
            for section, one_scale in zip(found, same, strict=True)
        ],
        "histogram": None,
        "fair": _fair(fair) if fair else None,
    }
    raw = [section["value"] if section else None for section in found]
    if first["level"] == "dataset":
        told["differences"] = _of_dataset(name, sets, fair, raw, same)
    else:
        told["differences"], told["histogram"] = _of_samples(name, sets, same)
    return told


def _value(section: dict[str, Any], one_scale: bool) -> dict[str, Any]:
    kept = {key: section[key] for key in ("value", "interval", "n_scored", "n_total", "reason", "quantiles")}
    return kept | {"note": None if one_scale else ANOTHER_SCALE}


def _printed(metric: Mapping[str, Any], difference: Difference, i: int) -> dict[str, str] | None:
    """A difference with what it is of, to two digits of the interval's width and no fewer than the paper prints."""
    if difference.value is None or difference.interval is None:
        return None
    low, high = difference.interval
    first, other = (_compared(metric, k) for k in (0, i))
    column = OF_METRIC.get(metric["name"])
    places = column.decimals if column else 0
    if scale := high - low or abs(first):
        places = min(8, max(places, 1 - math.floor(math.log10(scale))))
    return {
        "first": f"{first:z,.{places}f}",
        "other": f"{other:z,.{places}f}",
        "difference": _signed(difference.value, places),
        "interval": f"{_signed(low, places)} to {_signed(high, places)}",
    }


def _compared(metric: Mapping[str, Any], i: int) -> float:
    """The value that a difference is of: at equal size for a data-set metric."""
    side = metric["fair"]["sets"][i] if metric["fair"] else None
    value: float = (side if side and side["value"] is not None else metric["values"][i])["value"]
    return value


def _signed(value: float, places: int) -> str:
    """With its sign, unless it is printed as zero."""
    text = f"{value:+z,.{places}f}"
    return text if text.strip("+0.") else text[1:]


def _fair(fair: Fair) -> dict[str, Any]:
    hidden = ("variance", "spread", "share")
    sets = [asdict(one) if one else None for one in fair.sets]
    told = [{key: value for key, value in one.items() if key not in hidden} if one else None for one in sets]
    return {"m": fair.m, "raw_comparable": fair.comparable, "note": fair.note, "sets": told}


def _why_none(name: str, first: DataSet, other: DataSet) -> str:
    """Why a metric of two data sets has no difference: what is said of the first of them without a value."""
    for data in (first, other):
        section = data.metrics.get(name)
        if section is None:
            return "not measured in both"
        if section["value"] is None:
            return str(section["reason"])
    return "no value at the common size"


def _of_dataset(
    name: str,
    sets: Sequence[DataSet],
    fair: Fair | None,
    raw: Sequence[float | None],
    same: Sequence[bool],
) -> list[Difference | None]:
    found: list[Difference | None] = [None]
    for i in range(1, len(sets)):
        if not same[i]:
            found.append(Difference(reason=ANOTHER_SCALE))
        elif fair is None or fair.sets[0] is None or fair.sets[i] is None:
            found.append(Difference(reason=_why_none(name, sets[0], sets[i])))
        else:
            found.append(equal_size.difference(fair, sets, i, raw))
    return found


def _of_samples(
    name: str, sets: Sequence[DataSet], same: Sequence[bool]
) -> tuple[list[Difference | None], dict[str, Any] | None]:
    """Differences of means, and the histograms over common bins; one column a data set is held at a time."""
    present = [
        bool(data.metrics.get(name, {}).get("n_scored")) and one for data, one in zip(sets, same, strict=True)
    ]
    differences: list[Difference | None] = [None]
    first = sets[0].values(name) if present[0] else None
    edges = _edges(name, sets, present)
    counts: list[list[int] | None] = [_counts(first, edges)]
    for data, has, one_scale in zip(sets[1:], present[1:], same[1:], strict=True):
        other = data.values(name) if has else None
        counts.append(_counts(other, edges))
        if not one_scale:
            differences.append(Difference(reason=ANOTHER_SCALE))
        elif first is None or other is None:
            differences.append(Difference(reason=_why_none(name, sets[0], data)))
        else:
            differences.append(of_means(first, other, same_records=sets[0].is_of(data)))
    histogram = None if edges is None else {"edges": edges.tolist(), "counts": counts}
    return differences, histogram


def _edges(name: str, sets: Sequence[DataSet], present: Sequence[bool]) -> NDArray[np.float64] | None:
    """The edges of bins that hold every score."""
    shown = [data.metrics[name] for data, has in zip(sets, present, strict=True) if has]
    if not shown:
        return None
    ends = [edge for one in shown for edge in one["histogram"]["edges"]]
    # Rice's rule for the smallest of them: more bins would show noise.
    bins = min(BINS, math.ceil(2 * min(one["n_scored"] for one in shown) ** (1 / 3)))
    return np.linspace(min(ends), max(ends), bins + 1)


def _counts(values: NDArray[np.float64] | None, edges: NDArray[np.float64] | None) -> list[int] | None:
    if values is None or edges is None:
        return None
    counts: list[int] = np.histogram(values[np.isfinite(values)], edges)[0].tolist()
    return counts
