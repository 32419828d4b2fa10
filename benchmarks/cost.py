"""What each metric costs if it runs alone: processor seconds of one core for 1,000 samples.

    python benchmarks/cost.py --data DIR            prints the table; a quarter of an hour
    python benchmarks/cost.py --data DIR --write    renews metrics/vlitqc_metrics/cards/cost.toml

Each metric is scored by itself in this process, on one core and without the cache of features, over the first ``FEW``
records and over all of a set; what the longer run takes longer is no start-up. Counted are the times of
``run.json``: the metric, every model that it asks, decoding, and its pass over the data set; not reading the records
and writing the run, which a run does once for all its metrics. A model that several metrics share is counted
with each of them, so the costs of two metrics together are at most their sum. The clock is that of the processor, so
that other work on the machine changes little.

What a profile computes exactly as lite does costs what it costs there. For the rest of paper's metrics the number of
operations in ``benchmarks/cluster/cost_model.py`` gives an estimate for a GPU; nothing of it was measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COST = ROOT / "metrics" / "vlitqc_metrics" / "cards" / "cost.toml"
LLAVA = "llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json"
FEW = 32
"""Records of the shorter run; of the longer one at least twice as many."""
LM = "smollm2"
WEIGHTS = "not measured: weights not available where this was measured"
OPERATIONS = {
    "text_readability": "Llama-2-7b: readability and IFD, 100 tokens",
    "ifd": "Llama-2-7b: readability and IFD, 100 tokens",
    "image_readability": "MANIQA, 20 crops",
    "visual_complexity": "ICNet, 512 × 512",
    "object_diversity": "YOLO-World v2 S, 640 × 640",
    "object_categories": "YOLO-World v2 S, 640 × 640",
    "matching_degree": "CLIP ViT-B/32, both towers",
    "matching_percentile": "CLIP ViT-B/32, both towers",
    "response_diversity": "SimCSE BERT-base, 32 tokens",
    "correctness": "correctness, LLaVA-1.5-7b, 1,400 tokens",
    "instruction_complexity": "complexity, Llama-2-7b-chat, 807 tokens",
}
"""Metric → the entry of the cost model that has its operations in the profile paper."""


def on_one_core() -> None:
    """Before anything that starts threads is imported."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    from vlitqc.engine import clock

    # One thread does everything but decoding, whose own is counted by itself.
    clock.perf_counter = time.thread_time


def seconds(times: Mapping[str, Any], metric: str) -> float:
    """Of a run with one metric: what the metric, its models, decoding and the pass over the data set took."""
    from vlitqc.types import Stage

    passed = times["stages"].get(f"{Stage.DATA_SET}{metric}", 0.0)
    return float(
        sum(times["metrics"].values()) + sum(times["models"].values()) + times["decode"]["busy"] + passed
    )


def rate(few: float, many: float, more: int) -> float:
    """Seconds for 1,000 samples, of two runs of which the second has so many samples ``more``; never below 0."""
    return max(0.0, many - few) / more * 1000


def measured(path: Path, metric: str, home: Path, *, lm: str | None, repeats: int) -> float:
    """Seconds for 1,000 samples of one metric alone; of ``repeats`` runs of each length the quickest counts."""
    import vlitqc

    def spent(limit: int | None) -> tuple[float, int]:
        found = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(dir=home) as folder:
                run = vlitqc.score(
                    path, metrics=[metric], limit=limit, out=folder, lm=lm, workers=1, device="cpu",
                    cache=False, report=False,
                )  # fmt: skip
                found.append((seconds(run.info["times"], metric), run.scorecard["counts"]["records"]))
        return min(found)

    (few, n), (many, m) = spent(FEW), spent(None)
    return rate(few, many, m - n)


def recipe(profile: Any, metric: str) -> Any:
    """Everything that decides how a profile computes a metric; equal recipes cost the same."""

    def model(slot: str) -> Any:
        if slot not in profile.models:
            return None
        entry = asdict(profile.models[slot])
        del entry["slot"]
        return {**entry, "uses": {role: model(used) for role, used in profile.models[slot].uses.items()}}

    entry = profile.metrics[metric]
    return entry.options, {role: model(slot) for role, slot in entry.models.items()}


def estimate(metric: str) -> str | None:
    """What the cost model says of the profile paper, or None where it says nothing."""
    if metric not in OPERATIONS:
        return None
    sys.path.insert(0, str(ROOT / "benchmarks" / "cluster"))
    try:
        import cost_model
    finally:
        sys.path.pop(0)
    flops = {name: n for part in cost_model.FLOPS.values() for name, n in part.items()}[OPERATIONS[metric]]
    spent = 1000 * flops / (cost_model.GPU_PEAK * cost_model.UTILISATION)
    both = ", for text_readability and ifd together" if metric in ("text_readability", "ifd") else ""
    return (
        f"about {float(f'{spent:.2g}'):g} s of a GPU{both}: {flops / 1e9:,.0f} GFLOP a record at "
        f"{cost_model.UTILISATION:.0%} of {cost_model.GPU_PEAK / 1e12:g} TFLOP/s, assumed (docs/cost_model.md)"
    )


def tables(sets: Mapping[str, Path], home: Path, repeats: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(profile, metric, what is said of its cost), for lite, lite with a language model, and the other profiles."""
    from vlitqc import profiles

    def each(metric: str, lm: str | None) -> dict[str, Any]:
        found = {name: measured(path, metric, home, lm=lm, repeats=repeats) for name, path in sets.items()}
        return {"seconds": {name: float(f"{value:.2g}") for name, value in found.items()}}

    lite = profiles.load("lite")
    with_lm = profiles.rebind(lite, "lm", lite.models[LM])
    for name, entry in lite.metrics.items():
        if entry.unavailable is None:
            yield "lite", name, each(name, None)
        else:
            yield "lite", name, {"reason": f"not measured: {entry.unavailable}"}
    for name, entry in with_lm.metrics.items():
        if entry != lite.metrics[name]:
            yield with_lm.name, name, each(name, LM)
    for profile in (profiles.load(name) for name in profiles.names() if name != "lite"):
        for name, entry in profile.metrics.items():
            if recipe(profile, name) == recipe(lite, name):
                yield profile.name, name, {"as": "lite"}
            else:
                told = estimate(name) if profile.name == "paper" and entry.models else None
                yield profile.name, name, {"reason": WEIGHTS, **({"estimate": told} if told else {})}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with llava_pretrain_2k/"
    )
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="runs of each length (2)")
    parser.add_argument("--write", nargs="?", type=Path, const=COST, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: expected 1 or more")
    llava = arguments.data / LLAVA
    if not llava.is_file():
        parser.error(f"{llava} does not exist; --data names the folder with llava_pretrain_2k/")
    on_one_core()
    import tomli_w

    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2].splitlines()[0]
    found: dict[str, Any] = {
        "vlitqc": version("vlitqc"),
        "machine": f"one core of {cpu.strip(' :' + chr(9))}",
        "sets": {},
        "cost": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        demo = home / "demo"
        subprocess.run([sys.executable, str(ROOT / "examples" / "make_demo_data.py"), str(demo)], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        sets = {"LLaVA-Pretrain": llava, "demo": demo / "data.jsonl"}
        import vlitqc

        for name, path in sets.items():
            # Everything is imported and compiled once before anything is measured.
            run = vlitqc.score(
                path, out=home / f"warm {name}", lm=LM, workers=1, device="cpu", cache=False, report=False
            )
            records = run.scorecard["counts"]["records"]
            turns, pictures = (run.scores[column].mean() for column in ("n_turns", "n_images"))
            found["sets"][name] = f"{records} records, {turns:.1f} turns and {pictures:.1f} pictures each"
        for profile, metric, told in tables(sets, home, arguments.repeats):
            found["cost"].setdefault(profile, {})[metric] = told
            print(f"{profile:45} {metric:26} {told}", flush=True)
    if arguments.write:
        header = "# Written by benchmarks/cost.py --write: processor seconds of one core for 1,000 samples, alone.\n"
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(header + tomli_w.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
