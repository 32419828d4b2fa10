"""Gates: what a data set must reach, as sentences that a continuous-integration job can check.

::

    matching_degree.mean >= 25              a sample metric's mean; .value is the same, and what data-set metrics have
    text_readability.p5 > -1                a quantile of the samples: p5, p25, p50, p75, p95
    task_diversity.low >= 9                 an end of the 95% interval: low, high
    image_readability.scored >= 95%         the share of readable records that have a score; n_scored is their number
    text_readability.parts.slor > 0.5       a part of a sample metric, a mean
    task_diversity.details.tasks.counting >= 20     a number in what a metric tells besides
    issues.unreadable_image == 0            records with an issue of this kind; issues.errors and issues.warnings
    records >= 10000                        and counts.records, counts.scored, counts.partial, counts.unreadable
    verdict.share < 2%                      records that the verdict calls suspect; verdict.suspect is their number

The comparisons are ``>= > <= < == !=``, the right side is one number. With ``%`` a count is taken as a share of the
records, a share as it is, and a metric in percent as it is; nothing else can be compared with a percentage. A part of
a name that holds a dot, a space or a sign stands in backquotes. What has no value fails, and its reason is told.
"""

from __future__ import annotations

import codecs
import math
import operator
import re
import sys
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from vlitqc.analysis.issues import KINDS
from vlitqc.engine.disk import writing
from vlitqc.engine.inputs import paths_in
from vlitqc.engine.mirror import local
from vlitqc.engine.run import Run
from vlitqc.errors import RunError, UnknownName, UsageError
from vlitqc.formats.writing import whole

EXAMPLE = "matching_degree.mean >= 25"
LONGEST = 1000
QUANTILES = ("p5", "p25", "p50", "p75", "p95")
ENDS = ("low", "high")
FIELDS = ("value", "mean", *QUANTILES, *ENDS, "n_scored", "scored", "parts", "details")
SEVERITIES = {"errors": "error", "warnings": "warning", "notes": "note"}
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}

_PARSER = Lark(
    r"""
    start: _name ("." _name)* OPERATOR NUMBER [PERCENT]
    _name: NAME | QUOTED
    NAME: /[^\s.`'"<>=!%]+/
    QUOTED: /`[^`]+`/
    OPERATOR: ">=" | ">" | "<=" | "<" | "==" | "!="
    NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?/
    PERCENT: "%"
    %ignore /\s+/
    """,
    parser="lalr",
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence of a gate: what is asked for, how it is compared, with what; ``because`` is for people."""

    text: str
    path: tuple[str, ...]
    comparison: str
    number: float
    percent: bool = False
    because: str = ""

    @classmethod
    def parse(cls, text: str, because: str = "") -> Requirement:
        """``matching_degree.mean >= 25`` as a requirement. Raises UsageError for what is no such sentence."""
        if len(text) > LONGEST:
            raise UsageError(
                f"a requirement has {len(text):,} characters, more than {LONGEST:,}; write it like {EXAMPLE}"
            )
        try:
            tree: Tree[Token] = _PARSER.parse(text)
        except UnexpectedInput as error:
            raise UsageError(
                f"the requirement '{text}' {_trouble(error, text)}; write one comparison of a name with a number, "
                f"such as {EXAMPLE}, with one of {' '.join(COMPARISONS)}"
            ) from None
        tokens = [token for token in tree.children if isinstance(token, Token)]
        path = tuple(str(t).strip("`") for t in tokens if t.type in ("NAME", "QUOTED"))
        said = {t.type: str(t) for t in tokens}
        percent = "PERCENT" in said
        # Decimal divides exactly, so that 2.3% is the same double as 23 of 1000.
        number = float(Decimal(said["NUMBER"]).scaleb(-2 if percent else 0))
        if not math.isfinite(number):
            raise UsageError(f"the requirement '{text}' has a number that is too large; write a smaller one")
        return cls(text.strip(), path, said["OPERATOR"], number, percent, because)

    @property
    def name(self) -> str:
        """What is asked for, as it is written."""
        return ".".join(self.path)

    def holds(self, value: float) -> bool:
        """Whether a value meets the requirement; with ``%``, a share of 0 to 1."""
        return COMPARISONS[self.comparison](value, self.number)


@dataclass(frozen=True, slots=True)
class Gate:
    """A requirement and what became of it.

    ``actual`` is what the run has, in percent where the requirement is; None where it has no value, which never
    passes. ``reason`` says what was found. ``seconds`` is how long it took to look it up.
    """

    requirement: str
    passed: bool
    actual: float | None
    reason: str
    because: str = ""
    seconds: float = field(default=0.0, compare=False)


class Found(NamedTuple):
    """A value of a run, or why there is none. ``whole`` is what 100% of it is; None where that makes no sense."""

    value: float | None
    missing: str = ""
    whole: float | None = None


def check(run: Run, requirements: Sequence[str | Requirement]) -> list[Gate]:
    """Every requirement, in order, held against a run.

    Raises UsageError where there is none, where one cannot be read or cannot be asked, UnknownName for a metric, a
    field or an issue that there is not, RunError where the run cannot be read.
    """
    if not requirements:
        raise UsageError(f"no requirement was given; try --require '{EXAMPLE}'")
    # All are read before any is checked: a typing error in the last is told at once.
    parsed = [Requirement.parse(r) if isinstance(r, str) else r for r in requirements]
    return [_gate(run, requirement) for requirement in parsed]


def read_file(path: str | Path) -> list[Requirement]:
    """The requirements of a TOML file: ``require = ["…", …]``, and tables ``[[gates]]`` of ``require`` and ``because``.

    Raises UsageError, naming the file and the place, for a file that is not there, is no TOML, or holds anything else.
    """
    try:
        told = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"the file of requirements {path} does not exist") from None
    except OSError as error:
        raise UsageError(f"the file of requirements {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the file of requirements {path} is not valid TOML: {error}") from error
    _only(("require", "gates"), told, f"{path}")
    tables = told.get("gates", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path}: gates: expected tables, each under a line [[gates]]")
    found = [(f"{path}: require", {"require": told["require"]})] if "require" in told else []
    found += [(f"{path}: gate {i}", table) for i, table in enumerate(tables, 1)]
    requirements = [requirement for where, table in found for requirement in _from_table(table, where)]
    if not requirements:
        raise UsageError(f'{path} holds no requirement; write one such as require = ["{EXAMPLE}"]')
    return requirements


def junit(gates: Sequence[Gate], run: Run) -> bytes:
    """The gates as JUnit XML: a suite with a case for each, a failure with what was found in each that failed.

    A character that XML cannot hold becomes U+FFFD.
    """
    totals = {
        "tests": str(len(gates)),
        "failures": str(sum(not gate.passed for gate in gates)),
        "errors": "0",
        "skipped": "0",
        "time": f"{sum(gate.seconds for gate in gates):.3f}",
    }
    root = ET.Element("testsuites", {"name": "vlitqc check", **totals})
    place = run.info["input"]
    suite = ET.SubElement(root, "testsuite", {"name": _xml(place["path"]), **totals})
    properties = ET.SubElement(suite, "properties")
    facts = {"run": run.place, "input": place["path"], "input.sha256": place["sha256"]}
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": name, "value": _xml(str(value))})
    for gate in gates:
        about = {"classname": "vlitqc.check", "name": _xml(gate.requirement), "time": f"{gate.seconds:.3f}"}
        case = ET.SubElement(suite, "testcase", about)
        if not gate.passed:
            message = f"{gate.reason}; required: {gate.requirement}"
            failure = ET.SubElement(case, "failure", {"type": "gate", "message": _xml(message)})
            failure.text = _xml("\n".join(filter(None, (message, gate.because))))
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def write_junit(path: str | Path, gates: Sequence[Gate], run: Run) -> None:
    """Write ``junit`` to a file, whole or not at all.

    Raises UsageError for a place within the run or its input, and where another file than XML is; RunError where it
    cannot be written.
    """
    target = local(path)
    for kept in (run.path, *(paths_in(run.path) or ())):
        if target.resolve().is_relative_to(kept.resolve()):
            raise UsageError(f"--junit {target} would overwrite what belongs to {kept}; name another file")
    with writing(target, "--junit"):
        if target.is_file() and not _is_xml(target):
            raise UsageError(f"--junit {target} is a file that is no XML; name another file")
        with whole(target, ()) as draft:
            draft.write_bytes(junit(gates, run))


def _is_xml(path: Path) -> bool:
    """Whether a file begins as JUnit XML does, or is empty."""
    with path.open("rb") as stream:
        head = stream.read(64)
    return not head or head.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"<?xml", b"<testsuite"))


# ---------------------------------------------------------------- reading


def _trouble(error: UnexpectedInput, text: str) -> str:
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return "is empty" if not text.strip() else "ends too early"
    at = error.pos_in_stream if isinstance(error, UnexpectedCharacters | UnexpectedToken) else None
    assert at is not None
    return f"cannot be read from character {at + 1}, '{text[at : at + 20]}'"


def _only(known: Sequence[str], table: Mapping[str, Any], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: {UnknownName('key', key, known)}")


def _from_table(table: Mapping[str, Any], where: str) -> list[Requirement]:
    _only(("require", "because"), table, where)
    if "require" not in table:
        raise UsageError(f'{where} lacks the key require; write one such as require = "{EXAMPLE}"')
    told, because = table["require"], table.get("because", "")
    texts = told if isinstance(told, list) else [told]
    if not all(isinstance(text, str) for text in [*texts, because]):
        raise UsageError(f'{where}: expected texts, as in require = "{EXAMPLE}" and because = "why"')
    try:
        return [Requirement.parse(text, because) for text in texts]
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


# ---------------------------------------------------------------- finding


def _gate(run: Run, requirement: Requirement) -> Gate:
    started = time.perf_counter()
    found = _find(run, requirement.path)
    text, name, actual = requirement.text, requirement.name, found.value
    if requirement.percent and found.whole is None:
        raise UsageError(f"the requirement '{text}': {name} is no share of anything; leave out the %")
    passed = False
    if requirement.percent and not found.whole:
        actual, reason = None, f"{name} has no value: there is nothing to be a share of"
    elif actual is None:
        reason = f"{name} has no value: {found.missing}"
    elif not -sys.float_info.max <= actual <= sys.float_info.max:
        actual, reason = None, f"{name} has no value: it is not finite"
    else:
        value = actual / found.whole if found.whole and requirement.percent else float(actual)
        passed = requirement.holds(value)
        actual = 100 * value if requirement.percent else value
        reason = f"{name} is {_shown(actual, requirement)}"
    return Gate(text, passed, actual, reason, requirement.because, time.perf_counter() - started)


def _shown(value: float, requirement: Requirement) -> str:
    """A value in six digits, or in all where rounding would put it on the other side of the requirement."""
    scale, sign = (100, "%") if requirement.percent else (1, "")
    short = f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    same = requirement.holds(float(short) / scale) == requirement.holds(value / scale)
    return (short if same else repr(value)) + sign


def _find(run: Run, path: Sequence[str]) -> Found:
    """What a path names in a run."""
    metrics, counts = run.metrics(), run.scorecard["counts"]
    records, suspect = counts["records"], run.scorecard["verdict"]["suspect"]
    none = "" if records else "there is no record"
    plain = {
        "records": Found(records, whole=records),
        **{f"counts.{name}": Found(n, whole=records) for name, n in counts.items()},
        "verdict.suspect": Found(suspect, whole=records),
        "verdict.share": Found(suspect / records if records else None, none, whole=1),
    }
    head, *rest = path
    name = ".".join(path)
    if head == "issues":
        return _issues(run, rest, records)
    if head in ("records", "counts", "verdict"):
        if name not in plain:
            raise UnknownName("count of a run", name, plain)
        return plain[name]
    if head not in metrics:
        raise UnknownName("metric of this run", head, (*metrics, "issues", "records", "counts", "verdict"))
    return _metric(metrics[head], rest, name)


def _issues(run: Run, rest: Sequence[str], records: int) -> Found:
    """How many records have issues of a kind, which may stand in the plural, or of a severity."""
    known = {*KINDS, *(section["kind"] for section in run.scorecard["issues"])}
    kinds = {_plural(kind): kind for kind in known} | {kind: kind for kind in known}
    asked = ".".join(rest)
    if not asked:
        raise UsageError(
            "issues alone is no number; ask for issues.errors, or a kind such as issues.empty_turn"
        )
    if asked in SEVERITIES:
        wanted = pl.col("severity") == SEVERITIES[asked]
    elif asked in kinds:
        wanted = pl.col("kind") == kinds[asked]
    else:
        raise UnknownName("kind of issue", asked, known | set(SEVERITIES))
    path = run.path / "issues.parquet"
    try:
        rows = pl.scan_parquet(path, glob=False).filter(wanted).select(pl.col("row").n_unique()).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{run.place}/{path.name} cannot be read ({error}); score the data again") from error
    return Found(int(rows.item()), whole=records)


def _plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith("ch") else f"{kind}s"


def _metric(metric: Mapping[str, Any], rest: Sequence[str], name: str) -> Found:
    """A field of a metric's section of the scorecard."""
    own, sampled = metric["name"], metric["level"] == "sample"
    if not rest:
        raise UsageError(f"{own} alone is no number; ask for {own}.{'mean' if sampled else 'value'}")
    asked, *deeper = rest
    if asked not in FIELDS:
        raise UnknownName(f"field of {own}", asked, FIELDS)
    if asked in ("parts", "details"):
        return _inside(metric, asked, deeper, name)
    if deeper:
        raise UsageError(f"{name} goes too deep: {own}.{asked} is a number already; ask for that")
    if asked == "mean" and not sampled:
        raise UsageError(f"{own} is one value of the whole data set and has no mean; ask for {own}.value")
    total = metric["n_total"]
    if asked == "n_scored":
        return Found(metric["n_scored"], whole=total)
    if asked == "scored":
        return Found(metric["n_scored"] / total if total else None, "no record could be read", whole=1)
    whole = 100 if metric["unit"].startswith("%") else None
    if asked in ENDS:
        values = dict(zip(ENDS, metric["interval"] or (), strict=False))
        otherwise = "it has no interval"
    else:
        values = (metric["quantiles"] or {}) | {"value": metric["value"], "mean": metric["value"]}
        otherwise = "it has no quantiles, being one value of the whole data set"
    value = values.get(asked)
    return Found(value, metric["reason"] or otherwise, whole)


def _inside(metric: Mapping[str, Any], field: str, keys: Sequence[str], name: str) -> Found:
    """A number in a metric's parts or details."""
    node: Any = metric[field]
    where = f"{metric['name']}.{field}"
    for key in keys:
        if not isinstance(node, dict):
            raise UsageError(f"{name} goes too deep: {where} has nothing inside it")
        if key not in node:
            if metric["value"] is None:
                return Found(None, metric["reason"])
            raise UnknownName(f"entry of {where}", key, node)
        node = node[key]
        where += f".{key}"
    if node is None:
        return Found(None, "it is null")
    if isinstance(node, bool) or not isinstance(node, int | float):
        inside = f"; it holds {', '.join(node) or 'nothing'}" if isinstance(node, dict) else ""
        raise UsageError(f"{where} is no number{inside}; ask for a number")
    return Found(node)


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
