"""Applies rules to a run and writes the result in the input's own format, every record byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vlitqc.engine.run import Run
from vlitqc.errors import RunError, UsageError
from vlitqc.filtering.rules import Rule, decide
from vlitqc.formats import stem_of
from vlitqc.types import Origin

FATES = ("kept", "dropped", "unreadable")
AUDITED = b"vlitqc.input"
"""The key of the decisions' metadata that names the input: whose outputs may be written again."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a filter did, or would do (``written`` is then empty).

    ``decisions`` has one row a record; ``by_rule`` says how many records each rule fails; kept, dropped and
    unreadable add up to the records of the run, which are the input's but where the run had a ``limit``.
    """

    decisions: pd.DataFrame
    by_rule: dict[str, int]
    counts: dict[str, int]
    written: dict[str, Path]


def filter_run(
    run: Run, rules: Sequence[Rule], *, out: Path | None = None, dry_run: bool = False
) -> Filtered:
    """Divide the run's input into kept, dropped and unreadable records.

    Writes ``<stem>.kept``, ``<stem>.dropped`` and, where there is any, ``<stem>.unreadable`` with the input's
    suffix, and ``<stem>.decisions.parquet``, into ``out`` (by default beside the input). Each record keeps its
    bytes and the order of the input. Models are not touched.

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
    folder = out if out is not None else reader.path.parent
    stem, suffix = stem_of(reader.path), reader.suffix
    audit = folder / f"{stem}.decisions.parquet"
    outputs = {name: folder / f"{stem}.{name}{suffix}" for name in FATES}
    foreign = [path for path in (audit, *outputs.values()) if path.exists()]
    if foreign and _audited(audit) != str(reader.path):
        raise RunError(
            f"{foreign[0]} exists and is no filter's output of this run; move it, or pass --out DIR"
        )
    written = {name: path for name, path in outputs.items() if counts[name] or name != "unreadable"}
    places = run.table([*Origin.__dataclass_fields__]).to_pylist()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The audit comes first: outputs that a killed filter leaves are then known for its own.
        table = pa.Table.from_pandas(decisions, preserve_index=False)
        draft = audit.with_name(f".{audit.name}.new")
        pq.write_table(
            table.replace_schema_metadata({**table.schema.metadata, AUDITED: str(reader.path)}), draft
        )
        draft.replace(audit)
        origins = (Origin(**place) for place in places)
        reader.divide(zip(origins, fate, strict=True), written)
        if "unreadable" not in written:
            # One left from an earlier filter would belong to other files.
            outputs["unreadable"].unlink(missing_ok=True)
        written["decisions"] = audit
    except OSError as error:
        raise RunError(f"cannot write into {folder} ({error.strerror}); pass --out DIR") from error
    return Filtered(decisions, by_rule, counts, written)


def _audited(audit: Path) -> str | None:
    """The input that a file of decisions is about; None where it is not one of ours."""
    try:
        metadata = pq.read_schema(audit).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    named = metadata.get(AUDITED)
    return named.decode() if named is not None else None
