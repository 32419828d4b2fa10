"""Applies rules to a run and writes the result in the input's own format, every record unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vlitqc.engine import disk
from vlitqc.engine.inputs import home, is_other
from vlitqc.engine.run import Run
from vlitqc.errors import RunError, UsageError
from vlitqc.filtering.rules import Rule, decide
from vlitqc.formats import check_name
from vlitqc.formats.folder import AUDITED, DECISIONS, FATES
from vlitqc.types import Origin


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a filter did, or would do (``written`` is then empty).

    ``decisions`` has one row a record; ``by_rule`` says how many records each rule fails; kept, dropped and
    unreadable add up to the records of the run, which are the input's but where the run had a ``limit``. Of the
    unreadable, ``not_copied`` are in no output: files whose bytes, and rows of damaged tables whose values cannot
    be had.
    """

    decisions: pd.DataFrame
    by_rule: dict[str, int]
    counts: dict[str, int]
    written: dict[str, Path]
    not_copied: int = 0


def filter_run(
    run: Run, rules: Sequence[Rule], *, out: Path | None = None, dry_run: bool = False
) -> Filtered:
    """Divide the run's input into kept, dropped and unreadable records.

    Writes ``<stem>.kept``, ``<stem>.dropped`` and, where there is any, ``<stem>.unreadable`` with the input's
    suffix, and ``<stem>.decisions.parquet``, into ``out`` (by default where the input's run is by default). Of a
    folder, and of several files, the first three are folders. Each record keeps its content and the order of the
    input. Models are not touched.

    Raises UsageError without a rule, UnknownName for a metric that the run lacks, InputError where the input
    has changed since, RunError where the files cannot be written or are not an earlier filter's of this input.
    """
    if not rules:
        raise UsageError("no rule was given; try --drop-below, or --drop-below METRIC=p10")
    decisions, by_rule = decide(run.scores, run.issues, rules)
    fate = [
        "kept" if kept else "unreadable" if failed == ["unreadable"] else "dropped"
        for kept, failed in zip(decisions["kept"], decisions["rules_failed"], strict=True)
    ]
    counts = {name: fate.count(name) for name in FATES}
    if dry_run:
        return Filtered(decisions, by_rule, counts, {})
    reader = run.reader
    paths = [Path(path) for path in run.info["input"]["paths"]]
    beside, stem = home(paths)
    folder, suffix = out if out is not None else beside, reader.suffix
    check_name(folder)
    audit = folder / f"{stem}{DECISIONS}"
    outputs = {name: folder / f"{stem}.{name}{suffix}" for name in FATES}
    foreign = [path for path in (audit, *outputs.values()) if path.exists()]
    told = _audited(audit)
    if foreign and (told is None or is_other(told, paths)):
        raise RunError(
            f"{foreign[0]} exists and is no filter's output of this run; move it, or pass --out DIR"
        )
    places = run.table([*Origin.__dataclass_fields__]).to_pylist()
    lost = [name == "unreadable" and not place["sha256"] for place, name in zip(places, fate, strict=True)]
    not_copied = sum(lost)
    wanted = counts["unreadable"] > not_copied
    written = {name: path for name, path in outputs.items() if wanted or name != "unreadable"}
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep((audit, *outputs.values()))
        table = pa.Table.from_pandas(decisions, preserve_index=False)
        table = table.replace_schema_metadata(
            {**table.schema.metadata, AUDITED: json.dumps(run.info["input"]["paths"])}
        )
        if not audit.exists():
            # The audit comes first: outputs that a killed filter leaves are then known for its own.
            disk.write_table(audit, table)
        told_apart = zip(places, fate, lost, strict=True)
        reader.divide(((Origin(**place), name) for place, name, gone in told_apart if not gone), written)
        # One that is there belongs to the outputs there are, until these.
        disk.write_table(audit, table)
        if "unreadable" not in written:
            # One left from an earlier filter would belong to other files.
            disk.remove(outputs["unreadable"])
        written["decisions"] = audit
    return Filtered(decisions, by_rule, counts, written, not_copied)


def _sweep(outputs: Sequence[Path]) -> None:
    """Delete the drafts of these outputs whose process is no more."""
    for output in outputs:
        for draft in output.parent.glob(f".{escape(output.name)}.*.*"):
            number, _, kind = draft.name.removeprefix(f".{output.name}.").partition(".")
            if number.isdecimal() and kind in ("part", "old") and not _runs(int(number)):
                disk.remove(draft)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _audited(audit: Path) -> list[Path] | None:
    """The paths of the input that a file of decisions is about; None where it is not one of ours."""
    try:
        metadata = pq.read_schema(audit).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    try:
        return [Path(path) for path in json.loads(metadata[AUDITED])]
    except (KeyError, ValueError, TypeError):
        return None
