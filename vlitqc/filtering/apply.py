"""Applies rules and a selection to a run and writes the result in the input's own format, every record unchanged."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from vlitqc.engine import disk
from vlitqc.engine.inputs import gone_or_changed, home, is_other
from vlitqc.engine.mirror import local
from vlitqc.engine.run import Run
from vlitqc.engine.subset import summaries
from vlitqc.errors import RunError, UsageError
from vlitqc.filtering import audit, vacuous
from vlitqc.filtering.audit import NOT_SELECTED, Verdicts
from vlitqc.filtering.decisions import Decided, decide
from vlitqc.filtering.effect import Effect
from vlitqc.filtering.effect import effect as effect_of
from vlitqc.filtering.recipes import Recipe
from vlitqc.filtering.rules import Comparison, Rule
from vlitqc.filtering.selection import Selected, Selection, random_control, select
from vlitqc.filtering.table import ScoreTable, reading
from vlitqc.formats import Reader, check_name
from vlitqc.formats.folder import AUDITED, COMPARISON, CONTROL, DECISIONS, FATES, FILTER
from vlitqc.formats.writing import check_kind, put, remove
from vlitqc.types import Origin

if TYPE_CHECKING:
    import pandas as pd

MAX_HASHED = 1 << 26
"""Bytes: of larger outputs ``.filter.json`` gives no sha256, which would take as long as writing them."""
MAX_LEVELS = 10_000
"""Groups: of more ``.filter.json`` does not give the level of each."""
MAX_TOLD = 3

_KEPT, _DROPPED, _UNREADABLE = range(len(FATES))
_NOWHERE = -1
_PLACE = [*Origin.__dataclass_fields__]


@dataclass(frozen=True, eq=False)
class Filtered:
    """What a filter did, or would do (``written`` is then empty).

    ``counts`` of kept, dropped and unreadable add up to the records of the run, which are the input's but where the
    run had a ``limit``. Of the unreadable, ``not_copied`` are in no output: files whose bytes, and rows of damaged
    tables whose values cannot be had. ``notes`` are sentences: which of the recipe's rules the run cannot serve, and
    what the selection could not do as asked. ``selected`` and ``comparison`` are None without a selection, ``effect``
    where it was not asked for. ``comparison`` has the metrics' sections of a scorecard over the ``input``, what was
    ``selected`` and a ``control`` of as many records drawn at random from those that the rules keep.
    """

    table: ScoreTable
    verdicts: Verdicts
    counts: dict[str, int]
    written: dict[str, Path]
    notes: list[str]
    not_copied: int = 0
    effect: Effect | None = None
    comparison: dict[str, Any] | None = None

    @property
    def decided(self) -> Decided:
        """What the rules say of every record."""
        return self.verdicts.decided

    @property
    def selected(self) -> Selected | None:
        """What the selection says of the records that the rules keep."""
        return self.verdicts.selected

    @property
    def fates(self) -> NDArray[np.int8]:
        """Of every record in the order of the input: 0 kept, 1 dropped, 2 unreadable."""
        return self.verdicts.fates

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Of every record in the order of the input: whether it is kept."""
        mask: NDArray[np.bool_] = self.fates == _KEPT
        return mask

    @cached_property
    def by_rule(self) -> dict[str, int]:
        """How many readable records each rule fails, and how many the selection leaves out."""
        told = dict(self.decided.by_rule)
        if self.selected is not None:
            told[NOT_SELECTED] = int(self.verdicts.not_selected.sum())
        return told

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """One row a record, with an entry for every comparison of each rule that it fails."""
        found = pa.Table.from_batches(audit.decisions(self.table, self.verdicts), audit.SCHEMA)
        frame: pd.DataFrame = found.to_pandas()
        return frame

    @cached_property
    def mask(self) -> pd.Series[bool]:
        """Whether each record is kept, by its row: ``run.scores[filtered.mask]`` are the scores of those kept."""
        import pandas as pd

        return pd.Series(self.kept, name="kept")


def filter_run(
    run: Run,
    rules: Sequence[Rule] = (),
    *,
    recipe: Recipe | None = None,
    selection: Selection | None = None,
    must_keep: Collection[str] = (),
    out: str | Path | None = None,
    dry_run: bool = False,
    effect: bool = False,
    principles: bool = True,
    seed: int = 0,
) -> Filtered:
    """Divide the run's input into kept, dropped and unreadable records.

    The recipe's rules come before ``rules``. ``selection``, by default the recipe's, then takes some of the records
    that no rule drops. Records whose id is in ``must_keep`` are kept whatever rules say. ``effect`` asks for what
    the filter does, ``principles`` whether to the scorecard too, which takes longest. Models are not touched.

    Writes ``<stem>.kept``, ``<stem>.dropped`` and, where there is any, ``<stem>.unreadable`` with the input's
    suffix, ``<stem>.decisions.parquet`` and ``<stem>.filter.json``, into ``out`` (by default where the input's run
    is by default). With a selection also ``<stem>.control``, as many records as it kept drawn at random from those
    that the rules keep, and ``<stem>.comparison.json``. Of a folder, and of several files, those with the input's
    suffix are folders. Each record keeps its content and the order of the input.

    Raises UsageError without a rule and a selection, and for an id in ``must_keep`` that no readable record has;
    UnknownName for a column that the run lacks; InputError where the input has changed since; RunError where the
    files cannot be written or are not an earlier filter's of this input, or the run cannot be read.
    """
    with reading(run):
        return _filtered(
            run, rules, recipe, selection, must_keep, out, dry_run, effect, principles=principles, seed=seed
        )


def _filtered(
    run: Run,
    rules: Sequence[Rule],
    recipe: Recipe | None,
    selection: Selection | None,
    must_keep: Collection[str],
    out: str | Path | None,
    dry_run: bool,
    effect: bool,
    *,
    principles: bool,
    seed: int,
) -> Filtered:
    if selection is None and recipe is not None:
        selection = recipe.selection
    if not rules and recipe is None and selection is None:
        raise UsageError("no rule was given; try --drop-below, or --drop-below METRIC=p10")
    table = ScoreTable.of(run)
    metrics = run.metrics()
    of_recipe = recipe.rules_for(metrics) if recipe else ()
    asked = [*of_recipe, *rules]
    decided = decide(table, asked)
    must = _must_keep(table, must_keep, decided.unreadable)
    pool = (decided.failed == 0) & ~decided.unreadable
    selected = select(run, table, pool, selection, must_keep=must, seed=seed) if selection else None
    kept = (selected.kept if selected else pool) | must
    drawn_from = pool | must if selected else None
    fates = np.where(decided.unreadable, _UNREADABLE, np.where(kept, _KEPT, _DROPPED)).astype(np.int8)
    verdicts = Verdicts(decided, fates, must, selected)
    counts = {name: int((fates == i).sum()) for i, name in enumerate(FATES)}
    told_effect = (
        effect_of(run, table, decided, kept, seed=seed, rules=asked, pool=drawn_from, principles=principles)
        if effect
        else None
    )
    notes = [
        *(recipe.left_out(metrics) if recipe else ()),
        *vacuous.notes(table, decided, metrics, first=len(of_recipe)),
        *(selected.notes if selected else ()),
    ]
    if dry_run and (why := gone_or_changed(run.info["input"], run.info["command"])) is not None:
        notes.append(f"nothing can be written: {why}")
    filtered = Filtered(table, verdicts, counts, {}, notes, effect=told_effect)
    if dry_run:
        return filtered
    outputs = _outputs(run, local(out) if out is not None else None)
    without_bytes = table.collect((pl.col("sha256") == "").alias("lost"))["lost"].to_numpy()
    lost = (fates == _UNREADABLE) & without_bytes
    not_copied = int(lost.sum())
    told = {
        "vlitqc": metadata.version("vlitqc"),
        **_asked(table, recipe, asked, decided, selection),
        "strata": selected.strata if selected else [],
        "notes": notes,
        "seed": seed,
        "must_keep": sorted(set(must_keep)),
        "run": {
            "path": run.address,
            "sha256": audit.run_sha256(run),
            "profile": {key: run.info["profile"][key] for key in ("name", "sha256")},
        },
        "input": {key: run.info["input"][key] for key in ("paths", "sha256")},
        "counts": counts,
        "not_copied": not_copied,
    }
    with _alone(outputs["filter"]):
        _refuse_foreign(outputs, [Path(path) for path in run.info["input"]["paths"]])
        control = comparison = None
        if drawn_from is not None:
            control = random_control(drawn_from, counts["kept"], seed=seed)
            comparison = {
                "input": metrics,
                "selected": summaries(run, kept),
                "control": summaries(run, control),
            }
        written = _write(run.reader, outputs, filtered, lost, control, comparison, told)
    audit.remember(run, outputs["decisions"])
    return replace(filtered, written=written, not_copied=not_copied, comparison=comparison)


def _outputs(run: Run, out: Path | None) -> dict[str, Path]:
    """Where each output goes. Raises InputError where the input has changed."""
    paths = [Path(path) for path in run.info["input"]["paths"]]
    suffix = run.reader.suffix
    beside, stem = home(paths)
    if out is None and run.mirror and beside == run.path.absolute():
        raise UsageError("the records came from memory and their run is at a URL; pass --out DIR")
    folder = out if out is not None else beside
    check_name(folder)
    endings = {name: f".{name}{suffix}" for name in (*FATES, CONTROL)}
    endings |= {"decisions": DECISIONS, "filter": FILTER, "comparison": COMPARISON}
    return {name: folder / f"{stem}{ending}" for name, ending in endings.items()}


@contextmanager
def _alone(filter: Path) -> Iterator[None]:
    """Keep a second filter off the outputs beside this ``.filter.json``."""
    lock = filter.with_name(f".{filter.name}.lock")
    with disk.locked(lock, str(filter)):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _refuse_foreign(outputs: Mapping[str, Path], paths: Sequence[Path]) -> None:
    """Raise RunError where one of the outputs is there and no earlier filter of this input says that it wrote it."""
    decisions = outputs["decisions"]
    told = audit.inputs_of(decisions)
    ours = audit.written_of(decisions) if told is not None and not is_other(told, paths) else set()
    for path in outputs.values():
        holds_input = any(source.resolve().is_relative_to(path.resolve()) for source in paths)
        if path.exists() and (path.name not in ours or holds_input):
            raise RunError(f"{path} exists and is no filter's output of this run; move it, or pass --out DIR")


def _write(
    reader: Reader,
    outputs: Mapping[str, Path],
    filtered: Filtered,
    lost: NDArray[np.bool_],
    control: NDArray[np.bool_] | None,
    comparison: Mapping[str, Any] | None,
    told: Mapping[str, Any],
) -> dict[str, Path]:
    """Write the outputs that there are something for, and remove the others; ``lost`` records go nowhere.

    All are finished in a hidden folder before the first is put in its place. Meanwhile there is no ``.filter.json``,
    and those that are there are named by the audit: after a kill the next filter knows them for its own.
    """
    table, verdicts = filtered.table, filtered.verdicts
    unwritten = set() if control is not None else {CONTROL, "comparison"}
    if filtered.counts["unreadable"] == lost.sum():
        unwritten.add("unreadable")
    written = {name: path for name, path in outputs.items() if name not in unwritten}
    decisions = outputs["decisions"]
    about = {
        AUDITED: json.dumps(told["input"]["paths"]),
        audit.RUN_SHA256: told["run"]["sha256"],
        audit.WRITTEN: json.dumps([path.name for path in written.values()]),
    }
    hidden = decisions.with_name(f".{outputs['filter'].name}.part")
    drafts = {name: hidden / path.name for name, path in written.items()}
    with disk.writing(decisions.parent), ExitStack() as stack:
        remove(hidden)  # a killed filter's
        hidden.mkdir()
        stack.callback(remove, hidden)
        places = _places(table, np.where(lost, _NOWHERE, verdicts.fates), FATES)
        reader.divide(places, {name: drafts[name] for name in FATES if name in drafts})
        if control is not None:
            drawn = _places(table, np.where(control, 0, _NOWHERE), (CONTROL,))
            reader.divide(drawn, {CONTROL: drafts[CONTROL]})
        audit.write_decisions(drafts["decisions"], table, verdicts, about)
        if comparison is not None:
            disk.write_json(drafts["comparison"], comparison)
        hashed = {name: _hashed(name, path) for name, path in drafts.items() if name != "filter"}
        disk.write_json(drafts["filter"], {**told, "written": hashed})
        for name, draft in drafts.items():
            check_kind(draft, outputs[name])
        for name in ("filter", *unwritten):
            remove(outputs[name])
        # The first says whose the others are, the last that they are all there.
        for name in sorted(drafts, key=lambda name: (name != "decisions", name == "filter")):
            put(drafts[name], outputs[name])
    return written


def _must_keep(table: ScoreTable, ids: Collection[str], unreadable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The readable records that have one of these ids. Raises UsageError for an id that none of them has."""
    if not ids:
        return np.zeros(len(unreadable), np.bool_)
    # Half a surrogate pair, which the command line makes of a byte that is no UTF-8, is in no table.
    texts = {name.encode("utf-8", "backslashreplace").decode() for name in ids}
    wanted = pl.Series("id", sorted(texts), pl.String)
    found = table.collect("id")["id"]
    must = found.is_in(wanted.implode()).fill_null(value=False).to_numpy() & ~unreadable
    strange = wanted.filter(~wanted.is_in(found.implode())).to_list()
    if strange:
        raise UsageError(f"--must-keep {_listed(strange)}: no record of this run has that id")
    broken = wanted.filter(~wanted.is_in(found.filter(pl.Series(must)).implode())).to_list()
    if broken:
        raise UsageError(
            f"--must-keep {_listed(broken)}: the record cannot be read; put it right, or leave its id out"
        )
    return np.asarray(must, np.bool_)


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_TOLD:,} more" if len(ids) > MAX_TOLD else ""
    return ", ".join(f"'{name}'" for name in ids[:MAX_TOLD]) + more


def _asked(
    table: ScoreTable,
    recipe: Recipe | None,
    rules: Sequence[Rule],
    decided: Decided,
    selection: Selection | None,
) -> dict[str, Any]:
    """What the filter was asked for, with its levels as numbers: for ``.filter.json``."""
    settled = [
        {
            "words": words.words,
            "name": words.name,
            "missing": rule.missing,
            "because": rule.because,
            "n": decided.by_rule[words.words],
            "unknown": unknown,
            "compared": [_compared(table, compared) for compared in words.compared],
        }
        for rule, words, unknown in zip(rules, decided.rules, decided.unknown, strict=True)
    ]
    wanted = asdict(selection) if selection else None
    exact = json.dumps([recipe.sha256 if recipe else None, settled, wanted], sort_keys=True)
    return {
        "sha256": hashlib.sha256(exact.encode()).hexdigest(),
        "recipe": recipe.as_json() if recipe else None,
        "rules": settled,
        "selection": wanted,
    }


def _compared(table: ScoreTable, compared: Comparison) -> dict[str, Any]:
    """A comparison with its threshold: one for all records, or as ``levels`` one for each group of ``by``."""
    told: dict[str, Any] = {"column": compared.column, "side": compared.side, "threshold": None}
    bound = compared.threshold
    if bound is None:
        return told
    columns = [*dict.fromkeys(bound.meta.root_names())]
    if not columns:
        return told | {"threshold": _finite(pl.select(bound).item())}
    if len(columns) > 1 or not isinstance(table.schema[columns[0]], pl.String | pl.Categorical | pl.Enum):
        return told
    (by,) = columns
    groups = table.collect(pl.col(by).unique())
    if len(groups) > MAX_LEVELS:
        return told
    levels = sorted(groups.select(pl.col(by).cast(pl.String), bound.alias("level")).rows(), key=str)
    return told | {"by": by, "levels": [[group, _finite(level)] for group, level in levels]}


def _finite(level: float | None) -> float | None:
    """A level that nothing reaches, as where all scores are equal, is infinite, which JSON has no word for."""
    return level if level is not None and math.isfinite(level) else None


def _places(
    table: ScoreTable, targets: NDArray[np.integer[Any]], names: Sequence[str]
) -> Iterator[tuple[Origin, str]]:
    """Where each record stands and the name of its target, an index into ``names``; none for those below 0."""
    at = 0
    for batch in audit.batches(table.scores.select(_PLACE)):
        for place, target in zip(batch.iter_rows(), targets[at : at + len(batch)].tolist(), strict=True):
            if target >= 0:
                yield Origin(*place), names[target]
        at += len(batch)


def _hashed(name: str, path: Path) -> dict[str, str | None]:
    """The name of an output, and its sha256 where that is quickly had; of the decisions always."""
    if path.is_dir() or (path.stat().st_size > MAX_HASHED and name != "decisions"):
        return {"name": path.name, "sha256": None}
    return {"name": path.name, "sha256": audit.sha256_of(path)}
