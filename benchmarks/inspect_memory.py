"""How much memory and time ``vlitqc inspect`` takes for a large file of text records.

    python benchmarks/inspect_memory.py              2 GB, some minutes
    python benchmarks/inspect_memory.py --mb 300

Writes JSON lines of synthetic conversations to a temporary folder, reads them with ``vlitqc inspect --json`` in a
process of its own, and prints records, seconds, MB/s and that process's peak of resident memory; exit 1 where that
is over the limit. The file is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_MB = 500
WORDS = """\
the a photo picture of dog cat street house tree people red small large old stands walks sits near under beside what
which how many does describe explain because light colour left right café 図 answer therefore
"""


def write(path: Path, n_bytes: int) -> int:
    """Records of one to three turns until the file has ``n_bytes``; how many there are."""
    rng = random.Random(0)  # the same file every time
    words = WORDS.split()
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 120))) for _ in range(2000)]
    records = 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < n_bytes:
            lines = []
            for _ in range(1000):
                said = [
                    {"from": speaker, "value": rng.choice(texts)}
                    for _ in range(rng.randint(1, 3))
                    for speaker in ("human", "gpt")
                ]
                record = {"id": f"synthetic_{records:09d}", "conversations": said}
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")
                records += 1
            file.write("".join(lines))
    return records


def main() -> int:
    """Write, read, print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=2000, help="size of the file, in 10^6 bytes")
    parser.add_argument("--folder", type=Path, help="where to write it, for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, answer = Path(folder, "synthetic.jsonl"), Path(folder, "inspection.json")
        written = write(path, options.mb * 10**6)
        started = time.perf_counter()
        with answer.open("wb") as out:
            command = [sys.executable, "-m", "vlitqc", "inspect", str(path), "--json"]
            child = subprocess.Popen(command, stdout=out)
            _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        found = json.loads(answer.read_bytes())
        size = path.stat().st_size / 1e6
    peak = usage.ru_maxrss * 1024 / 1e6
    print(
        f"{found['records']:,} records, {size:,.0f} MB, {seconds:.1f} s, {size / seconds:.1f} MB/s, "
        f"peak memory {peak:.0f} MB (limit {LIMIT_MB})"
    )
    complete = os.waitstatus_to_exitcode(status) == 0 and found["readable"] == written
    return 0 if complete and peak < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
