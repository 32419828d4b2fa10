"""Gates: the sentences, what they are held against, the file of requirements, and JUnit XML."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlitqc.analysis.issues import KINDS
from vlitqc.engine.run import Run, score
from vlitqc.errors import RunError, UsageError
from vlitqc.gates import EXAMPLE, Gate, Requirement, check, junit, read_file, write_junit

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def messy_run(messy: Path, tiny: str) -> Run:
    """The run of 14 records of every sort of fault, of which three cannot be read."""
    return score(messy, tiny, report=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run made by hand, so that every number is known."""
    path = tmp_path_factory.mktemp("by hand")
    made = Run(path)
    made.__dict__["info"] = {"input": {"path": "/data/set.jsonl", "sha256": "ab" * 32}}
    made.__dict__["scorecard"] = {
        "counts": {"records": 1000, "scored": 900, "partial": 77, "unreadable": 23},
        "verdict": {"suspect": 23},
        "principles": [
            {
                "metrics": [
                    metric("fit", value=24.5, interval=[24.0, 25.0], n_scored=900),
                    metric("judged", value=None, reason="needs a judge", n_scored=0),
                    metric(
                        "tasks",
                        level="dataset",
                        value=16,
                        interval=[13.0, 17.5],
                        quantiles=None,
                        details=DETAILS,
                    ),
                    metric("copies", level="dataset", value=2.5, unit="% of samples", quantiles=None),
                    metric(
                        "nothing read", value=None, reason="no record could be read", n_scored=0, n_total=0
                    ),
                ]
            }
        ],
        "issues": [{"kind": "third_partys_kind", "severity": "note", "n": 3}],
    }
    rows = [(0, "missing_image", "error"), (0, "missing_image", "error"), (1, "missing_image", "error")]
    rows += [(1, "empty_turn", "warning"), (2, "empty_turn", "error"), (5, "third_partys_kind", "note")]
    columns = zip(*rows, strict=True)
    pq.write_table(
        pa.table(dict(zip(("row", "kind", "severity"), map(list, columns), strict=True))),
        path / "issues.parquet",
    )
    return made


DETAILS = {
    "tasks": {
        "counting": 12,
        "visual Q.A.": 3,
        "1": 7,
        "bad": float("nan"),
        "big": 10**400,
        "x": {"y": {"z": 4}},
    },
    "even": True,
    "names": ["a", "b"],
    "none": None,
}


def metric(name: str, **facts: Any) -> dict[str, Any]:
    value = facts.get("value")
    quantiles = None if value is None else {f"p{q}": float(q) for q in (5, 25, 50, 75, 95)}
    usual = {
        "name": name,
        "level": "sample",
        "unit": "",
        "reason": None,
        "interval": None,
        "quantiles": quantiles,
    }
    counts = {"n_scored": 977, "n_total": 977, "parts": {"first": 0.25} if value else {}, "details": {}}
    return usual | counts | facts


def gate(run: Run, text: str) -> Gate:
    (found,) = check(run, [text])
    assert found.requirement == text.strip()
    return found


# ---------------------------------------------------------------- what can be asked


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("fit.mean", 24.5),
        ("fit.value", 24.5),
        ("fit.low", 24),
        ("fit.high", 25),
        ("fit.p5", 5),
        ("fit.p25", 25),
        ("fit.p50", 50),
        ("fit.p75", 75),
        ("fit.p95", 95),
        ("fit.n_scored", 900),
        ("fit.scored", 900 / 977),
        ("fit.parts.first", 0.25),
        ("tasks.value", 16),
        ("tasks.low", 13),
        ("tasks.details.tasks.counting", 12),
        ("tasks.details.tasks.1", 7),
        ("tasks.details.tasks.`visual Q.A.`", 3),
        ("tasks.details.tasks.x.y.z", 4),
        ("judged.n_scored", 0),
        ("judged.scored", 0),
        ("records", 1000),
        ("counts.records", 1000),
        ("counts.scored", 900),
        ("counts.partial", 77),
        ("counts.unreadable", 23),
        ("verdict.suspect", 23),
        ("verdict.share", 0.023),
        ("issues.missing_image", 2),  # three issues of two records
        ("issues.missing_images", 2),
        ("issues.empty_turn", 2),
        ("issues.third_partys_kind", 1),
        ("issues.crashed_worker", 0),  # a kind that the run lacks
        ("issues.image_token_mismatches", 0),
        ("issues.errors", 3),
        ("issues.warnings", 1),
        ("issues.notes", 1),
    ],
)
def test_everything_that_can_be_asked(run: Run, path: str, value: float) -> None:
    found = gate(run, f"{path} == {value!r}")
    assert found.passed, found
    assert found.actual == value
    assert not gate(run, f"{path} != {value!r}").passed


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_issue_and_its_plural_can_be_asked_for(run: Run, kind: str) -> None:
    plural = f"{kind}es" if kind.endswith("mismatch") else f"{kind}s"
    assert gate(run, f"issues.{kind} >= 0").actual == gate(run, f"issues.{plural} >= 0").actual


@pytest.mark.parametrize(
    ("comparison", "below", "at", "above"),
    [
        (">=", False, True, True),
        (">", False, False, True),
        ("<=", True, True, False),
        ("<", True, False, False),
        ("==", False, True, False),
        ("!=", True, False, True),
    ],
)
def test_comparisons_at_their_boundary(run: Run, comparison: str, below: bool, at: bool, above: bool) -> None:
    for number, expected in (("24.6", below), ("24.5", at), ("24.4", above)):
        assert gate(run, f"fit.mean {comparison} {number}").passed is expected


@pytest.mark.parametrize("number", ["25", "+25", "25.", "25.0", "2.5e1", "2.5E+1", "250e-1", ".25e2"])
def test_numbers(number: str) -> None:
    assert Requirement.parse(f"a.b<{number}").number == 25


def test_negative_numbers() -> None:
    assert Requirement.parse("text_readability.p5 > -1.5e-3").number == -0.0015


@pytest.mark.parametrize(
    ("text", "actual", "passed"),
    [
        ("verdict.share <= 2.3%", 2.3, True),
        ("verdict.share < 2.3%", 2.3, False),
        ("verdict.suspect == 2.3%", 2.3, True),
        ("counts.unreadable <= 2.3 %", 2.3, True),
        ("counts.unreadable <= 2.2999%", 2.3, False),
        ("issues.missing_image <= 0.2%", 0.2, True),
        ("issues.missing_image < 0.2%", 0.2, False),
        ("records == 100%", 100, True),
        ("judged.scored == 0%", 0, True),
        ("judged.n_scored < 1%", 0, True),
        ("fit.n_scored > 92%", 100 * 900 / 977, True),
        ("fit.scored > 92%", 100 * 900 / 977, True),
        ("copies.value == 2.5%", 2.5, True),
        ("copies.value < 3", 2.5, True),
    ],
)
def test_percentages(run: Run, text: str, actual: float, passed: bool) -> None:
    found = gate(run, text)
    assert found.passed is passed
    assert found.actual == pytest.approx(actual)
    assert f"{actual:.6g}%" in found.reason or "%" not in text


@given(n=st.integers(0, 5000), of=st.sampled_from([100, 1000, 10_000, 100_000]))
def test_a_share_equals_its_percentage_exactly(n: int, of: int) -> None:
    percentage = f"{n * 100 // of}.{n * 100 % of * 1000 // of:03d}"
    assert Requirement.parse(f"verdict.share == {percentage}%").holds(n / of)


def test_a_percentage_of_what_is_no_share_is_refused(run: Run) -> None:
    for path in ("fit.mean", "judged.mean", "fit.parts.first", "tasks.details.tasks.counting"):
        with pytest.raises(UsageError, match=f"{path} is no share of anything; leave out the %"):
            check(run, [f"{path} > 1%"])


# ---------------------------------------------------------------- no value never passes


@pytest.mark.parametrize("comparison", [">=", ">", "<=", "<", "==", "!="])
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("judged.mean", "needs a judge"),
        ("judged.p5", "needs a judge"),
        ("judged.high", "needs a judge"),
        ("judged.parts.first", "needs a judge"),
        ("judged.details.a.b", "needs a judge"),
        ("copies.low", "it has no interval"),
        ("tasks.p50", "it has no quantiles, being one value of the whole data set"),
        ("tasks.details.none", "it is null"),
        ("tasks.details.tasks.bad", "it is not finite"),
        ("tasks.details.tasks.big", "it is not finite"),
        ("`nothing read`.scored", "no record could be read"),
    ],
)
def test_what_has_no_value_fails_with_its_reason(run: Run, path: str, why: str, comparison: str) -> None:
    found = gate(run, f"{path} {comparison} 0")
    assert not found.passed
    assert found.actual is None
    assert found.reason == f"{path.replace('`', '')} has no value: {why}"


def test_a_share_of_nothing_fails(run: Run) -> None:
    for path in ("n_scored", "scored"):
        assert gate(run, f"`nothing read`.{path} <= 100%").actual is None


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fitt.mean > 1", "no metric of this run is called 'fitt'; did you mean fit"),
        ("xyzzy > 1", "known: copies, counts, fit, issues, judged, nothing read, records, tasks, verdict"),
        ("fit.maen > 1", "no field of fit is called 'maen'; did you mean mean"),
        ("fit > 1", "fit alone is no number; ask for fit.mean"),
        ("tasks > 1", "tasks alone is no number; ask for tasks.value"),
        ("tasks.mean > 1", "tasks is one value of the whole data set and has no mean; ask for tasks.value"),
        ("fit.mean.x > 1", "fit.mean.x goes too deep: fit.mean is a number already"),
        ("fit.parts.frist > 1", "no entry of fit.parts is called 'frist'; did you mean first"),
        ("fit.parts > 1", "fit.parts is no number; it holds first"),
        ("fit.details > 1", "fit.details is no number; it holds nothing"),
        ("fit.parts.first.x > 1", "fit.parts.first.x goes too deep: fit.parts.first has nothing inside it"),
        (
            "tasks.details.tasks.conting > 1",
            "no entry of tasks.details.tasks is called 'conting'; did you mean count",
        ),
        ("tasks.details.even == 1", "tasks.details.even is no number"),
        ("tasks.details.names > 1", "tasks.details.names is no number"),
        ("issues > 1", "issues alone is no number"),
        (
            "issues.missing_imagse == 0",
            "no kind of issue is called 'missing_imagse'; did you mean missing_image",
        ),
        ("issues.missing_image.n == 0", "no kind of issue is called 'missing_image.n'"),
        ("counts > 1", "no count of a run is called 'counts'"),
        ("counts.scord > 1", "did you mean counts.scored"),
        ("records.scored > 1", "no count of a run is called 'records.scored'"),
        ("verdict.level > 1", "no count of a run is called 'verdict.level'"),
    ],
)
def test_unknown_names_are_told_with_near_ones(run: Run, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(run, [text])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("records", "ends too early"),
        ("records >=", "ends too early"),
        ("records = 5", "cannot be read from character 9, '= 5'"),
        ("records => 5", "cannot be read from character 9, '=> 5'"),
        ("5 >= 5 and x", "cannot be read from character 8, 'and x'"),
        ("records >= 1,000", "cannot be read from character 13, ',000'"),
        ("records >= 1_000", "cannot be read from character 13, '_000'"),
        ("records >= nan", "cannot be read from character 12, 'nan'"),
        ("records >= -inf", "cannot be read from character 12, '-inf'"),
        ("records >= 1e9999", "cannot be read from character 17, '9'"),
        ("records >= 5%%", "cannot be read from character 14, '%'"),
        ("records >= fit.mean", "cannot be read from character 12, 'fit.mean'"),
        ("fit..mean > 1", "cannot be read from character 5, '.mean > 1'"),
        ("fit.`` > 1", "cannot be read from character 5, '`` > 1'"),
        ("fit.'mean' > 1", "cannot be read from character 5"),
        ("1 < records < 5", "cannot be read from character 5, 'records < 5'"),
        ("records >= 1e999", "has a number that is too large"),
        ("records >= " + "9" * 400, "has a number that is too large"),
        ("r" * 1001, "has 1,001 characters"),
    ],
)
def test_what_is_no_sentence_is_refused_with_its_place(text: str, trouble: str) -> None:
    with pytest.raises(UsageError) as caught:
        Requirement.parse(text)
    assert trouble in str(caught.value)
    assert EXAMPLE in str(caught.value) or "smaller" in str(caught.value)


def test_the_last_is_read_before_the_first_is_checked(run: Run) -> None:
    with pytest.raises(UsageError, match="ends too early"):
        check(run, ["unknown.mean > 1", "records >"])
    with pytest.raises(UsageError, match="no requirement was given"):
        check(run, [])


NAMES = st.sampled_from(
    ["fit", "tasks", "issues", "records", "details", "mean", "`a b`", "x", ".", "p5", "judged"]
)
PIECES = st.one_of(
    st.text(max_size=4), NAMES, st.sampled_from([">=", "==", "<", "=", "1e3", "-2", "%", " ", "`"])
)


@given(st.lists(PIECES, max_size=9).map("".join))
@example("fit.mean >= 1\N{COMBINING ACUTE ACCENT}")
@example("fit.mean >= ٣")
@example("`" * 999)
@example("a." * 500)
@example("\ud800 > 1")
def test_any_text_is_checked_or_refused(run: Run, text: str) -> None:
    try:
        (found,) = check(run, [text])
    except UsageError as error:
        assert len(str(error)) < 5000
        return
    assert found.actual is None or math.isfinite(found.actual)
    assert found.passed <= (found.actual is not None)


@given(st.text(min_size=1).filter(lambda name: "`" not in name))
def test_any_name_can_be_quoted(name: str) -> None:
    if len(name) < 900:
        assert Requirement.parse(f"m.details.`{name}` > 0").path == ("m", "details", name)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (24.9999999999, "24.9999999999"),  # not 25, which would look like a pass
        (24.912345678, "24.9123"),
        (25, "25"),
        (12345678, "12345678"),
    ],
)
def test_rounding_hides_no_failure(run: Run, value: float, shown: str) -> None:
    other = copy.copy(run)
    other.__dict__["scorecard"] = copy.deepcopy(run.scorecard)
    other.scorecard["principles"][0]["metrics"][0]["value"] = value
    assert gate(other, "fit.mean >= 25").reason == f"fit.mean is {shown}"


def test_a_run_whose_issues_are_broken_is_told(run: Run, tmp_path: Path) -> None:
    for raw in (None, b"these are words and no table"):
        if raw is not None:
            (tmp_path / "issues.parquet").write_bytes(raw)
        other = copy.copy(run)
        other.path = tmp_path
        with pytest.raises(RunError, match=r"issues\.parquet cannot be read .*; score the data again"):
            check(other, ["issues.errors == 0"])


def test_of_a_real_run(messy_run: Run) -> None:
    """Issues and counts of a run are those of its tables."""
    issues, states = messy_run.issues, messy_run.scores["state"]
    expected = {f"issues.{kind}": rows.nunique() for kind, rows in issues.groupby("kind")["row"]}
    expected |= {f"issues.{name}s": rows.nunique() for name, rows in issues.groupby("severity")["row"]}
    expected |= {f"counts.{state}": n for state, n in states.value_counts().items()} | {
        "records": len(states)
    }
    assert {"issues.errors", "issues.truncated_image", "counts.unreadable"} <= set(expected)
    assert all(found.passed for found in check(messy_run, [f"{path} == {n}" for path, n in expected.items()]))
    mean = messy_run.scores["image_readability"].mean()
    assert gate(messy_run, "image_readability.mean > 0").actual == pytest.approx(mean)
    assert gate(messy_run, "correctness.mean > 0").reason == "correctness.mean has no value: needs a judge"


# ---------------------------------------------------------------- files of requirements


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "gates.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_of_requirements(file: Callable[[str], Path], run: Run) -> None:
    path = file(
        'require = ["records >= 100", "fit.mean >= 25"]\n[[gates]]\nrequire = "issues.errors == 0"\n'
        'because = "they stop a trainer"\n[[gates]]\nrequire = ["judged.mean > 1", "verdict.share < 3%"]\n'
    )
    gates = check(run, read_file(path))
    assert [(g.requirement, g.passed, g.because) for g in gates] == [
        ("records >= 100", True, ""),
        ("fit.mean >= 25", False, ""),
        ("issues.errors == 0", False, "they stop a trainer"),
        ("judged.mean > 1", False, ""),
        ("verdict.share < 3%", True, ""),
    ]


def test_one_text_may_stand_alone(file: Callable[[str], Path]) -> None:
    assert [r.text for r in read_file(file('require = "records > 1"'))] == ["records > 1"]
    assert [r.text for r in read_file(file('\ufeffrequire = "records > 1"'))] == ["records > 1"]


def test_a_number_of_thousands_of_digits_is_told(file: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="is not valid TOML"):
        read_file(file(f"x = {'1' * 5000}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no requirement"),
        ("require = []", "holds no requirement"),
        ("gates = []", "holds no requirement"),
        ("require = [1]", "require: expected texts"),
        ("require = 1", "require: expected texts"),
        ("requires = []", "no key is called 'requires'; did you mean require"),
        ("[gates]\nrequire = 'a > 1'", "gates: expected tables, each under a line [[gates]]"),
        ("gates = [1]", "gates: expected tables"),
        ("[[gates]]\nbecause = 'x'", "gate 1 lacks the key require"),
        (
            "[[gates]]\nrequire = 'a > 1'\nbecuase = 'x'",
            "gate 1: no key is called 'becuase'; did you mean because",
        ),
        ("[[gates]]\nrequire = 'a > 1'\nbecause = 3", "gate 1: expected texts"),
        (
            "[[gates]]\nrequire = 'a > 1'\n[[gates]]\nrequire = 'a >'",
            "gate 2: the requirement 'a >' ends too early",
        ),
        ("require = ['a']", "require: the requirement 'a' ends too early"),
        ("require = [", "is not valid TOML"),
        ("a = " + "[" * 5000, "is not valid TOML"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_place(
    file: Callable[[str], Path], text: str, message: str
) -> None:
    path = file(text)
    with pytest.raises(UsageError) as caught:
        read_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml does not exist"):
        read_file(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        read_file(tmp_path)
    (tmp_path / "raw.toml").write_bytes(b"require = '\xff'")
    with pytest.raises(UsageError, match="is not valid TOML"):
        read_file(tmp_path / "raw.toml")


def test_the_example_is_one() -> None:
    requirements = read_file(ROOT / "examples" / "gates.toml")
    assert len(requirements) == 8
    assert all(r.because for r in requirements if "image" in r.text)


def test_every_line_of_the_documentation_parses() -> None:
    import vlitqc.gates

    block = (vlitqc.gates.__doc__ or "").split("::\n\n")[1].split("\n\n")[0]
    lines = [line.strip().split("  ")[0] for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        Requirement.parse(line)


# ---------------------------------------------------------------- JUnit


def test_junit_says_what_the_gates_say(run: Run) -> None:
    texts = ["records >= 100", "fit.mean >= 25", "judged.mean > 1"]
    gates = check(run, [Requirement.parse(text, because="for a reason") for text in texts])
    root = ET.fromstring(junit(gates, run))
    suite = root.find("testsuite")
    assert suite is not None
    for element in (root, suite):
        assert {k: element.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
            "tests": "3",
            "failures": "2",
            "errors": "0",
            "skipped": "0",
        }
        assert float(element.get("time", "")) >= 0
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == texts
    assert {case.get("classname") for case in cases} == {"vlitqc.check"}
    failures = [case.find("failure") for case in cases]
    assert failures[0] is None
    assert failures[1] is not None
    assert failures[1].get("message") == "fit.mean is 24.5; required: fit.mean >= 25"
    assert failures[1].text == "fit.mean is 24.5; required: fit.mean >= 25\nfor a reason"
    assert failures[2] is not None
    assert "needs a judge" in (failures[2].get("message") or "")
    told = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert told == {"run": str(run.path), "input": "/data/set.jsonl", "input.sha256": "ab" * 32}


def test_junit_has_the_elements_and_attributes_that_pytest_writes(run: Run, tmp_path: Path) -> None:
    """What CI systems read is what pytest writes: no element stands elsewhere, no attribute is another's."""
    (tmp_path / "test_one.py").write_text(
        "def test_a(record_testsuite_property):\n    record_testsuite_property('a', 'b')\n    assert False\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    subprocess.run(
        [*command, "--junitxml=one.xml", "test_one.py"], cwd=tmp_path, check=False, capture_output=True
    )
    theirs = _shape(ET.parse(tmp_path / "one.xml").getroot())
    ours = _shape(ET.fromstring(junit(check(run, ["records > 1", "records < 1"]), run)))
    assert set(ours) == set(theirs)
    for path, attributes in ours.items():
        # testsuites has the totals of its suites, and a failure its type, in the format itself; pytest leaves them out.
        more = {"tests", "failures", "errors", "skipped", "time"} if path == "testsuites" else set()
        more |= {"type"} if path.endswith("failure") else set()
        assert attributes <= theirs[path] | more, path


def _shape(element: ET.Element, above: str = "") -> dict[str, set[str]]:
    path = f"{above}/{element.tag}".lstrip("/")
    found = {path: set(element.keys())}
    for child in element:
        for name, attributes in _shape(child, path).items():
            found[name] = found.get(name, set()) | attributes
    return found


@given(st.text(st.characters(), max_size=30), st.text(st.characters(), max_size=30))
@example("\x00\x08\x1b[31m\ud800\ufffe\uffff", "]]><!-- & \"'</failure>")
def test_junit_can_be_parsed_whatever_the_names(run: Run, name: str, reason: str) -> None:
    gates = [Gate(name, False, None, reason, because=name), Gate(name, True, 1.0, "")]
    root = ET.fromstring(junit(gates, run))
    cases = root.findall("testsuite/testcase")
    assert len(cases) == 2
    told = cases[0].get("name") or ""
    assert len(told) == len(name)
    assert all(b in (a, "\N{REPLACEMENT CHARACTER}") for a, b in zip(name, told, strict=True))


def test_junit_is_written_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    gates = check(run, ["records > 1"])
    target = tmp_path / "new folder" / "junit.xml"
    write_junit(target, gates, run)
    assert target.read_bytes() == junit(gates, run)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        write_junit(tmp_path / "file" / "junit.xml", gates, run)
    broken = copy.copy(run)
    broken.__dict__["info"] = {}
    with pytest.raises(KeyError):
        write_junit(target, gates, broken)
    assert target.read_bytes() == junit(gates, run)
    assert [path.name for path in target.parent.iterdir()] == ["junit.xml"]


def test_junit_overwrites_neither_the_data_nor_the_run_nor_what_is_no_xml(
    make_data: Callable[..., Path], tiny: str, tmp_path: Path
) -> None:
    data = make_data(3)
    run = score(data, tiny, out=tmp_path / "run", report=False)
    gates = check(run, ["records > 1"])
    (tmp_path / "link.xml").symlink_to(data)
    for target in (data, tmp_path / "link.xml", run.path / "new.xml", run.path / "run.json"):
        with pytest.raises(UsageError, match="would overwrite what belongs to"):
            write_junit(target, gates, run)
    folder = score(data.parent, tiny, out=tmp_path / "of folder", report=False)
    with pytest.raises(UsageError, match="would overwrite what belongs to"):
        write_junit(data.parent / "gates.xml", gates, folder)
    with pytest.raises(UsageError, match="is no file, and is never replaced"):
        write_junit(tmp_path, gates, run)
    target = tmp_path / "gates.xml"
    for mine in (b"mine", b"<!DOCTYPE html>", b"\0"):
        target.write_bytes(mine)
        with pytest.raises(UsageError, match="is a file that is no XML"):
            write_junit(target, gates, run)
        assert target.read_bytes() == mine
    for theirs in (b"", b"\xef\xbb\xbf <?xml version='1.0'?>", b"<testsuites/>", junit(gates, run)):
        target.write_bytes(theirs)
        write_junit(target, gates, run)
        assert target.read_bytes() == junit(gates, run)
