"""The formats under fire: damaged files of every kind never end in a traceback or hang, and lose nothing.

``VLITQC_FUZZ_CASES`` says how many cases are run, by default about ten seconds' worth; ``VLITQC_FUZZ_FIRST`` is the
number of the first. The cases run in processes of their own, so that one that hangs or dies is known by its number:
``python tests/fuzz/text_cases.py N N+1`` runs case N alone.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlitqc.formats import open_input
from vlitqc.types import Sample, Unreadable

HERE = Path(__file__).resolve().parent
CASES = int(os.environ.get("VLITQC_FUZZ_CASES", "600"))
FIRST = int(os.environ.get("VLITQC_FUZZ_FIRST", "0"))
WORKERS = 2
LIMIT_SECONDS = 10.0
START_SECONDS = 60.0

DEFECTS = (523, 661, 804, 2049, 13023)
"""Cases that have found a defect: a packed tar cut within its last member (the first two), a key that a record in an
object has twice, and records in an object with a bracket lost between them."""


@dataclass
class Outcomes:
    """What came of the cases."""

    kinds: Counter[str] = field(default_factory=Counter)
    defects: dict[int, str] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{n:7,}  {kind}" for kind, n in self.kinds.most_common()]
        slowest = sorted(self.seconds.items(), key=lambda item: -item[1])[:3]
        told = ", ".join(f"case {seed}: {seconds:.2f} s" for seed, seconds in slowest)
        return "\n".join([f"{sum(self.kinds.values()):,} cases", *lines, f"slowest: {told}"])


def run_cases(first: int, last: int, outcomes: Outcomes, limit: float = LIMIT_SECONDS) -> None:
    """Run the cases from ``first`` to before ``last``; a process that hangs or dies costs only its case."""
    while first < last:
        command = [sys.executable, str(HERE / "text_cases.py"), str(first), str(last)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env)
            told: queue.Queue[dict[str, Any] | None] = queue.Queue()
            reader = threading.Thread(target=_forward, args=(process, told))
            reader.start()
            at, wait, why = first, START_SECONDS, ""
            while True:
                try:
                    line = told.get(timeout=wait)
                except queue.Empty:
                    why = f"hung: no answer within {wait:g} s"
                    break
                if line is None:
                    break
                at, wait = line["seed"], limit
                if "seconds" in line:
                    outcomes.seconds[at] = line["seconds"]
                    outcomes.kinds[line.get("outcome", "DEFECT")] += 1
                    if "defect" in line:
                        outcomes.defects[at] = line["defect"]
                    at += 1
            process.kill()
            code = process.wait()
            reader.join()
            if at >= last:
                return
            errors.seek(0)
            why = why or f"the process died ({code}): {errors.read()[-2000:].decode(errors='replace')}"
        outcomes.kinds["DEFECT"] += 1
        outcomes.defects[at] = why
        first = at + 1


def _forward(process: subprocess.Popen[str], told: queue.Queue[dict[str, Any] | None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            told.put(json.loads(line))
    told.put(None)


def test_no_damaged_file_breaks_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [Outcomes() for _ in range(WORKERS)]
    size = -(-CASES // WORKERS)
    threads = [
        threading.Thread(target=run_cases, args=(first, min(first + size, FIRST + CASES), part))
        for first, part in zip(range(FIRST, FIRST + CASES, size), parts, strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Outcomes()
    for part in parts:
        total.kinds += part.kinds
        total.defects |= part.defects
        total.seconds |= part.seconds
    with capsys.disabled():
        print(f"\n{total}")
    told = [f"case {seed}:\n{cause}" for seed, cause in sorted(total.defects.items())[:10]]
    assert not told, f"{len(total.defects)} defects\n" + "\n".join(told)
    assert sum(total.kinds.values()) == CASES
    assert max(total.seconds.values()) < LIMIT_SECONDS


@pytest.mark.parametrize("seed", DEFECTS)
def test_what_broke_once(seed: int) -> None:
    outcomes = Outcomes()
    run_cases(seed, seed + 1, outcomes)
    assert outcomes.defects == {}


def test_a_case_that_hangs_or_dies_is_known_by_its_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "text_cases.py").write_text(
        "import json, os, sys, time\n"
        "for seed in range(int(sys.argv[1]), int(sys.argv[2])):\n"
        "    print(json.dumps({'seed': seed}), flush=True)\n"
        "    if seed == 3: time.sleep(60)\n"
        "    if seed == 5: os.abort()\n"
        "    print(json.dumps({'seed': seed, 'seconds': 0.0, 'outcome': 'fine'}), flush=True)\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "HERE", tmp_path)
    outcomes = Outcomes()
    run_cases(0, 8, outcomes, limit=1.0)
    assert outcomes.kinds == {"fine": 6, "DEFECT": 2}
    assert outcomes.defects[3] == "hung: no answer within 1 s"
    assert outcomes.defects[5].startswith("the process died (-6)")


def test_a_record_in_an_object_that_repeats_a_key_within(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('{"data": {"a": {"instruction": "Say b.", "output": "b", "x": {"output": 1}}}}')
    (record,) = open_input(path).records()
    assert isinstance(record, Sample)
    assert record.id == "a"


# ---------------------------------------------------------------- values

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {}, optional={"from": ANY | st.sampled_from(["human", "gpt"]), "value": ANY, "role": ANY, "content": ANY}
)
RECORD = ANY | st.fixed_dictionaries(
    {},
    optional={
        "id": ANY, "image": ANY | st.text(), "images": ANY, "video": ANY, "caption": ANY, "texts": ANY, "system": ANY,
        "conversations": ANY | st.lists(TURN, max_size=4),
        "messages": ANY | st.lists(TURN, max_size=4), "instruction": ANY, "input": ANY, "output": ANY, "history": ANY,
        "": ANY,
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(RECORD, min_size=1, max_size=6))
def test_any_value_of_json_is_a_record_or_says_why_not(values: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        # The first is a conversation, so that the file is one of records whatever comes after.
        lines = [{"instruction": "Say a.", "output": "a"}, *values]
        path.write_text("".join(json.dumps(value) + "\n" for value in lines))
        found = list(open_input(path, "jsonl").records())
        assert [r.origin.row for r in found] == list(range(len(lines)))
        raw = path.read_bytes()
        for r, value in zip(found, lines, strict=True):
            assert json.dumps(value).encode() == raw[r.origin.start : r.origin.end]
            assert isinstance(r, Sample) or (isinstance(r, Unreadable) and r.issues)
            assert not isinstance(value, int | float | str | None) or isinstance(r, Unreadable)
            repr(r).encode("utf-8", "surrogatepass")
