"""Why a record was kept or dropped, and what is known of it: its scores among all others', issues and copies."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from vlitqc.engine.mirror import local
from vlitqc.engine.run import Run
from vlitqc.errors import RunError, UsageError
from vlitqc.filtering import audit
from vlitqc.filtering.audit import NOT_SELECTED, UNREADABLE
from vlitqc.filtering.table import ScoreTable, reading
from vlitqc.formats.folder import FILTER

MAX_RECORDS = 100
"""So many records of one id are explained; ``Explanation.n`` counts all."""
MAX_COMPARED = 100_000
"""Among so many ids one is looked for that is nearly the one asked for."""
LONGEST_ID = 200

_ROW = re.compile(r"row:(\d{1,18})")


@dataclass(frozen=True)
class Compared:
    """What a rule compared: ``value`` against ``threshold``, ``distance`` apart, or something that is no number."""

    column: str | None
    value: float | None
    threshold: float | None
    distance: float | None
    text: str | None = None

    @classmethod
    def of(
        cls, column: str | None, value: float | None, threshold: float | None, text: str | None
    ) -> Compared:
        """With the absolute difference of value and threshold, in the metric's unit.

        A level that nothing reaches, as where all scores are equal, is infinite; it is told as none.
        """
        threshold = threshold if threshold is not None and math.isfinite(threshold) else None
        apart = None if value is None or threshold is None else abs(value - threshold)
        return cls(column, value, threshold, apart, text)


@dataclass(frozen=True)
class RuleSaid:
    """A rule that a record failed or passed. A comparison without a value was with a missing score."""

    rule: str
    because: str
    compared: list[Compared]


@dataclass(frozen=True)
class MetricSaid:
    """A metric's value of a record.

    ``percentile``, 0 to 100, is the share of the scores present in the run that lie below the value, equal ones by
    half. ``reason`` tells why there is no value.
    """

    name: str
    title: str
    unit: str
    value: float | None
    percentile: float | None
    reason: str | None


@dataclass(frozen=True)
class Duplicates:
    """The group of copies that a record belongs to: how they are alike, how many, and the first of them."""

    group: int
    kind: str | None
    size: int
    first: dict[str, Any]


@dataclass(frozen=True)
class Explained:
    """All about one record. ``fate`` is None without a filter; ``why`` is the selection's reason to leave it out."""

    row: int
    id: str
    file: str
    line: int
    state: str
    fate: str | None = None
    must_keep: bool = False
    failed: list[RuleSaid] = field(default_factory=list)
    passed: list[RuleSaid] = field(default_factory=list)
    why: str | None = None
    metrics: list[MetricSaid] = field(default_factory=list)
    issues: list[dict[str, str]] = field(default_factory=list)
    duplicates: Duplicates | None = None


@dataclass(frozen=True)
class Explanation:
    """Every record that was asked for, the first hundred of ``n``, and the filter that decided on them.

    ``decisions`` is that filter's audit, None where the run has not been filtered yet or the filter did not finish,
    which ``note`` then says.
    ``recipe`` has name, title and sha256 of its recipe, None where rules were given one by one.
    """

    run: str
    decisions: str | None
    recipe: dict[str, str] | None
    note: str
    n: int
    records: list[Explained]

    def as_json(self) -> dict[str, Any]:
        """The same as dicts, lists, texts and numbers."""
        return asdict(self)


def explain(run: Run, id_or_row: str, *, decisions: Path | None = None) -> Explanation:
    """What became of a record in the run's latest filter and why, with its scores, issues and copies.

    ``id_or_row`` is a record's id, exactly, or ``row:17``; an id that several records have stands for all of them.
    ``decisions`` names the audit of another filter, ``<stem>.decisions.parquet``. Without a filter the scores and
    issues are told all the same.

    A filter that was killed, or whose decisions have changed since, is said to be unfinished; its fates are not told.

    Raises UsageError where there is no such record, RunError where ``decisions`` is no audit of this run, and where
    the run cannot be read.
    """
    with reading(run):
        return _explained(run, id_or_row, local(decisions) if decisions else None)


def _explained(run: Run, id_or_row: str, decisions: Path | None) -> Explanation:
    table = ScoreTable.of(run)
    # Half a surrogate pair, which the command line makes of a byte that is no UTF-8, is in no table.
    id_or_row = id_or_row.encode("utf-8", "backslashreplace").decode()
    wanted = _wanted(table, id_or_row, run)
    n = table.scores.filter(wanted).select(pl.len()).collect(engine="streaming").item()
    found = table.scores.filter(wanted).head(MAX_RECORDS).collect(engine="streaming")
    if decisions is None:
        decisions = audit.latest(run)
    elif audit.metadata_of(decisions).get(audit.RUN_SHA256) != audit.run_sha256(run).encode():
        raise RunError(f"{decisions} is no filter's decisions on the run {run.place}; filter the run again")
    rows = found["row"].to_list()
    finished = audit.filter_of(decisions) if decisions else None
    decided = _decided(decisions, rows) if decisions and finished else {}
    told = finished or {}
    metrics = {name: section for name, section in run.metrics().items() if name in table.numbers}
    ranks = _percentiles(table, found, list(metrics))
    issues = _issues(run, rows)
    return Explanation(
        run=run.place,
        decisions=str(decisions) if finished else None,
        recipe={key: told["recipe"][key] for key in ("name", "title", "sha256")}
        if told.get("recipe")
        else None,
        note="" if finished else _unfinished(run, decisions),
        n=n,
        records=[
            Explained(
                **{key: record[key] for key in ("row", "id", "file", "line", "state")},
                **_fate(record, decided.get(record["row"]), told.get("rules", [])),
                metrics=[
                    MetricSaid(
                        name,
                        section["title"],
                        section["unit"],
                        record[name],
                        rank[name],
                        record.get(f"{name}_reason"),
                    )
                    for name, section in metrics.items()
                ],
                issues=issues.get(record["row"], []),
                duplicates=_duplicates(table, record),
            )
            for record, rank in zip(found.to_dicts(), ranks, strict=True)
        ],
    )


def _wanted(table: ScoreTable, id_or_row: str, run: Run) -> pl.Expr:
    """What tells the records apart that are meant. An id that looks like a row is an id."""
    by_id = pl.col("id") == id_or_row
    known = table.scores.select(by_id.any().alias("named"), pl.len().alias("n"))
    named, n = known.collect(engine="streaming").row(0)
    if named:
        return by_id
    asked = _ROW.fullmatch(id_or_row)
    if asked is not None and int(asked[1]) < n:
        return pl.col("row") == int(asked[1])
    if asked is not None:
        raise UsageError(f"{run.place} has no row {asked[1]}; its rows are 0 to {n - 1}")
    if not id_or_row:
        raise UsageError("no record has an empty id; one without an id is named by its row, as in row:17")
    shown = id_or_row if len(id_or_row) <= LONGEST_ID else f"{id_or_row[:LONGEST_ID]}…"
    near = difflib.get_close_matches(shown, _some_ids(table), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "name it by its row, as in row:17"
    raise UsageError(f"no record of {run.place} has the id '{shown}'; {hint}")


def _some_ids(table: ScoreTable) -> list[str]:
    short = pl.col("id").str.len_chars() <= LONGEST_ID
    ids = table.scores.select("id").filter(short).head(MAX_COMPARED).collect(engine="streaming")["id"]
    return ids.unique(maintain_order=True).to_list()


def _unfinished(run: Run, decisions: Path | None) -> str:
    if decisions is None:
        return f"this run has not been filtered yet; try: vlitqc filter {shlex.quote(run.place)}"
    return (
        f"{decisions} is of a filter that did not finish, or has changed since: no {FILTER} beside it has its sha256; "
        "filter the run again"
    )


def _decided(decisions: Path, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    found = pl.scan_parquet(decisions, glob=False).filter(pl.col("row").is_in(rows))
    return {one["row"]: one for one in found.collect(engine="streaming").to_dicts()}


def _fate(
    record: Mapping[str, Any], decided: Mapping[str, Any] | None, rules: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Fate, rules failed and passed, and the selection's reason."""
    if decided is None:
        return {}
    because = {rule["words"]: rule["because"] for rule in rules}
    failed: dict[str, RuleSaid] = {}
    why = None
    for entry in decided["rules_failed"]:
        name = entry["rule"]
        if name == NOT_SELECTED:
            why = entry["text"]
        elif name != UNREADABLE:
            said = failed.setdefault(name, RuleSaid(name, because.get(name, ""), []))
            if entry["column"] is not None:
                said.compared.append(
                    Compared.of(entry["column"], entry["value"], entry["threshold"], entry["text"])
                )
    passed = [
        RuleSaid(
            rule["words"],
            rule["because"],
            [
                Compared.of(one["column"], record[one["column"]], level, None)
                for one in rule["compared"]
                if (level := _level(one, record)) is not None
                and one["column"] in record
                and isinstance(record[one["column"]], int | float | None)
            ],
        )
        for rule in rules
        if rule["words"] not in failed and decided["fate"] != UNREADABLE
    ]
    return {
        "fate": decided["fate"],
        "must_keep": decided["must_keep"],
        "failed": [*failed.values()],
        "passed": passed,
        "why": why,
    }


def _level(compared: Mapping[str, Any], record: Mapping[str, Any]) -> float | None:
    """The threshold of a comparison, which may be that of the record's group."""
    if "by" in compared:
        return dict(compared["levels"]).get(record.get(compared["by"]))
    level: float | None = compared["threshold"]
    return level


def _percentiles(
    table: ScoreTable, found: pl.DataFrame, names: Sequence[str]
) -> list[dict[str, float | None]]:
    """For each record, the rank of each of its values among the scores present."""
    ranks = {
        f"{i} {name}": 100
        * ((pl.col(name) < value).sum() + 0.5 * (pl.col(name) == value).sum())
        / pl.col(name).count()
        for name in names
        for i, value in enumerate(found[name])
        if value is not None
    }
    told = table.scores.select(**ranks).collect(engine="streaming").to_dicts() if ranks else [{}]
    return [{name: told[0].get(f"{i} {name}") for name in names} for i in range(len(found))]


def _issues(run: Run, rows: Sequence[int]) -> dict[int, list[dict[str, str]]]:
    found = pl.scan_parquet(run.path / "issues.parquet", glob=False).filter(pl.col("row").is_in(rows))
    told: dict[int, list[dict[str, str]]] = {}
    for issue in found.select("row", "kind", "severity", "detail").collect(engine="streaming").to_dicts():
        told.setdefault(issue.pop("row"), []).append(issue)
    return told


def _duplicates(table: ScoreTable, record: Mapping[str, Any]) -> Duplicates | None:
    group = record.get("duplicate_group")
    if group is None:
        return None
    members = table.scores.filter(pl.col("duplicate_group") == group).select(
        "row", "id", "file", "line", size=pl.len()
    )
    first = members.head(1).collect(engine="streaming").to_dicts()[0]
    return Duplicates(group, record.get("duplicate_kind"), first.pop("size"), first)
