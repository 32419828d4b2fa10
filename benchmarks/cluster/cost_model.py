"""What a million and a hundred million records take, from measured stage rates: the tables of docs/cost_model.md.

    python benchmarks/cluster/cost_model.py            prints the tables
    python benchmarks/cluster/cost_model.py --write    renews them in docs/cost_model.md

Reads rates.json, which ``rates.py`` measures. What stands under "assumed" below was not measured.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from result import table

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
SIZES = (1_000_000, 100_000_000)
CORES = (32, 64, 128, 256, 512, 1024)
GPUS = (1, 8, 64)
HOUR, DAY = 3600.0, 86400.0

# ---------------------------------------------------------------- assumed

CORES_A_GPU = 16
GPU_PEAK = 312e12
"""FLOP a second of an A100 in half precision, dense, by its data sheet."""
UTILISATION = 0.25
"""The share of it that is assumed to be reached."""
LIGHT_UTILISATION = 0.05
"""The same for networks of less than a GFLOP, which are bound by memory and by starting kernels."""
DISK = 1e9
"""Bytes a second that the driver reads, and at the same time writes, on the shared file system."""
START = 60.0
"""Seconds until every worker has loaded its models."""
JUDGED = "paper, with judges"

FLOPS = {
    "paper, without judges": {
        "Llama-2-7b: readability and IFD, 100 tokens": 2 * 6.74e9 * 100,
        "MANIQA, 20 crops": 20 * 280e9,
        "ICNet, 512 × 512": 36.8e9,
        "YOLO-World v2 S, 640 × 640": 32.7e9,
        "CLIP ViT-B/32, both towers": 14.78e9,
        "SimCSE BERT-base, 32 tokens": 5.4e9,
    },
    JUDGED: {
        "TagGPT's proposals, Llama-2-7b-chat, 5 votes of 404 + 20 tokens": 2 * 6.74e9 * 5 * (404 + 20),
        "correctness, LLaVA-1.5-7b, 1,400 tokens": 2 * 7.06e9 * 1400,
        "complexity, Llama-2-7b-chat, 807 tokens": 2 * 6.74e9 * 807,
    },
}
"""FLOP a record of one picture and one turn: 2 a weight and token for language models, and of the other networks what
open_clip publishes or ``torch.utils.flop_counter`` counts. The judges come on top of the first."""
SETTLE = 2 * 6.74e9 * 395
"""FLOP of the driver's own GPU a record whose instruction is like no other: TagGPT's choice among the tags of the data
set, 395 tokens."""
LIGHT = {"EfficientNet-Lite0": 0.77e9, "all-MiniLM-L6-v2, two texts of 32 tokens": 1.36e9}
"""The networks of lite, of which paper asks the same for duplicates."""

# ---------------------------------------------------------------- measured

ON_GPU = ("EfficientNet-Lite0 (ImageNet-1k)", "sentence-transformers/all-MiniLM-L6-v2")
"""The models of lite that a GPU takes; those that are made of them follow."""
FOLLOW = ("ConSE over", "similarity to a written task taxonomy")
LITE_ALONE = ("image_readability", "visual_complexity")
"""Classical measures of pictures, in whose place paper has networks."""
ENGINES = ("tables", "summaries")
"""The passes that are of no metric."""
CLUSTERED = {
    "response_diversity": (200_000, 384),
    "duplicates, texts": (200_000, 384),
    "duplicates, pictures": (100_000, 1280),
    "visual_semantic_diversity": (100_000, 1280),
}
"""As shipped: how many items are compared with each other at most, and of how many numbers each."""


@dataclass(frozen=True)
class Rates:
    """Seconds and bytes a record, and what the comparison of all pairs runs at."""

    models: Mapping[str, float]
    decode: float
    metrics: float
    compare: float
    read: float
    send: float
    feature_bytes: float
    passes: Mapping[str, float]
    """Seconds a record of each data-set metric, in one process."""
    row_bytes: Mapping[str, float]
    """Bytes of the driver's memory that a record adds, by data-set metric."""
    pair_flops: float
    """FLOP a second and core of the comparison of all pairs, of 2 a pair and number."""

    @property
    def core(self) -> float:
        """Seconds of a core to score a record with lite."""
        return sum(self.models.values()) + self.decode + self.metrics + self.compare

    def beside_gpu(self, *, lite: bool) -> float:
        """Seconds of a core beside a GPU: decoding, the parser, counts, and with lite the classical measures."""
        moved = sum(s for name, s in self.models.items() if name in ON_GPU or name.startswith(FOLLOW))
        replaced = 0.0 if lite else sum(self.models.get(name, 0.0) for name in LITE_ALONE)
        return self.core - moved - replaced

    @property
    def pipeline(self) -> float:
        """Seconds of the driver while workers score: reading a record and sending it."""
        return self.read + self.send

    @property
    def tail(self) -> float:
        """Seconds of the driver, a record, when all are scored: every pass over the data set, and joining vectors."""
        return sum(self.passes.values()) + self.feature_bytes / DISK

    def alone(self, profile: str) -> float:
        """Seconds, a record, in which workers have nothing to do: ``tail``, and what judges need of the driver.

        It reads the whole input before, to tell what they will be asked, and asks TagGPT's second questions after.
        """
        judged = self.read + SETTLE / (GPU_PEAK * UTILISATION) if profile == JUDGED else 0.0
        return self.tail + judged

    def clustering(self, cores: int) -> float:
        """Seconds of comparing all pairs of as many items as are compared at most."""
        return sum(pair_seconds(n, d, cores, self.pair_flops) for n, d in CLUSTERED.values())


def pair_seconds(n: int, d: int, cores: float, flops: float) -> float:
    """Seconds to compare ``n`` rows of ``d`` numbers, each pair once."""
    return n * (n - 1) / 2 * 2 * d / (flops * cores)


def most_rows(seconds: float, d: int, cores: float, flops: float) -> int:
    """The number of rows whose pairs are compared in so many seconds."""
    return int(0.5 + math.sqrt(0.25 + seconds * flops * cores / d))


@dataclass(frozen=True)
class Run:
    """What a run takes: seconds of scoring, of the driver alone, and the stage that bounds the scoring."""

    scoring: float
    alone: float
    binds: str

    @property
    def total(self) -> float:
        return START + self.scoring + self.alone


def run(n: int, profile: str, stages: Mapping[str, float], rates: Rates, cores: int) -> Run:
    """``n`` records; ``stages`` are seconds a record of what goes on side by side, beside the driver's own."""
    side_by_side = {**stages, "driver: reading and sending": rates.pipeline}
    binds = max(side_by_side, key=lambda name: side_by_side[name])
    return Run(n * side_by_side[binds], n * rates.alone(profile) + rates.clustering(cores), binds)


def on_cores(n: int, cores: int, rates: Rates) -> Run:
    """lite on processors alone."""
    return run(n, "lite", {"models on the workers": rates.core / cores}, rates, cores)


def gpu_seconds(profile: str) -> float:
    """Seconds of a GPU a record, as assumed."""
    light = sum(LIGHT.values()) / (GPU_PEAK * LIGHT_UTILISATION)
    heavy = {
        "lite": (),
        "paper, without judges": ("paper, without judges",),
        JUDGED: tuple(FLOPS),
    }
    return light + sum(sum(FLOPS[part].values()) for part in heavy[profile]) / (GPU_PEAK * UTILISATION)


def on_gpus(n: int, gpus: int, profile: str, rates: Rates) -> Run:
    """A profile on so many GPUs, each with its processors."""
    cores = gpus * CORES_A_GPU
    stages = {
        "models on the GPUs": gpu_seconds(profile) / gpus,
        "decoding and the rest on processors": rates.beside_gpu(lite=profile == "lite") / cores,
    }
    return run(n, profile, stages, rates, cores)


def load(rates: Path = HERE / "rates.json") -> Rates:
    """What ``rates.py`` has measured."""
    told: dict[str, Any] = json.loads(rates.read_text(encoding="utf-8"))
    return Rates(**{field.name: told[field.name] for field in fields(Rates)})


# ---------------------------------------------------------------- tables


def tables(rates: Rates) -> dict[str, str]:
    """The tables of docs/cost_model.md, by name."""
    return {
        "rates": stage_table(rates),
        "cores": cores_table(rates),
        "gpus": gpus_table(rates),
        "driver": driver_table(rates),
        "pairs": pairs_table(rates),
        "metrics": metrics_table(rates),
    }


def stage_table(rates: Rates) -> str:
    rows = [(name, milliseconds(s), "each worker") for name, s in rates.models.items()]
    rows += [
        ("decoding, one picture", milliseconds(rates.decode), "each worker"),
        ("metrics' own work", milliseconds(rates.metrics), "each worker"),
        ("comparing with what is finished", milliseconds(rates.compare), "each worker"),
        ("**all of lite**", milliseconds(rates.core), "each worker"),
        ("reading and recognising", milliseconds(rates.read), "driver, meanwhile"),
        ("sending to the workers", milliseconds(rates.send), "driver, meanwhile"),
        ("passes over the data set", milliseconds(sum(rates.passes.values())), "driver, afterwards"),
        (
            f"joining {rates.feature_bytes:,.0f} bytes of vectors (assumed: {DISK / 1e9:g} GB/s)",
            milliseconds(rates.feature_bytes / DISK),
            "driver, afterwards",
        ),
        (
            "with judges: reading for the estimate (as *reading*)",
            milliseconds(rates.read),
            "driver, before",
        ),
        (
            "with judges: TagGPT's choice (assumed, see GPUs)",
            milliseconds(SETTLE / (GPU_PEAK * UTILISATION)),
            "driver's GPU, afterwards",
        ),
    ]
    return table(("stage", "ms a record", "where"), rows)


def cores_table(rates: Rates) -> str:
    rows = []
    for n in SIZES:
        for cores in CORES:
            found = on_cores(n, cores, rates)
            shown = (found.scoring, found.alone, found.total)
            rows.append((f"{n:,}", f"{cores:,}", *map(duration, shown), found.binds))
    return table(("records", "cores", "scoring", "driver alone", "in all", "binds the scoring"), rows)


def gpus_table(rates: Rates) -> str:
    rows = []
    for profile in ("lite", *FLOPS):
        for n in SIZES:
            for gpus in GPUS:
                found = on_gpus(n, gpus, profile, rates)
                shown = (found.scoring, found.alone, found.total)
                rows.append((profile, f"{n:,}", str(gpus), *map(duration, shown), found.binds))
    headings = ("profile", "records", "GPUs", "scoring", "driver alone", "in all", "binds the scoring")
    return table(headings, rows)


def driver_table(rates: Rates) -> str:
    """From how many workers on more of them change little: the driver's two parts against the workers' one."""
    rows = []
    cases = [("lite, cores", rates.core, rates.tail)]
    for profile in ("lite", *FLOPS):
        each = max(gpu_seconds(profile), rates.beside_gpu(lite=profile == "lite") / CORES_A_GPU)
        cases.append((f"{profile}, GPUs with {CORES_A_GPU} cores each", each, rates.alone(profile)))
    for name, each, alone in cases:
        rows.append((name, milliseconds(each), f"{each / alone:,.0f}", f"{each / rates.pipeline:,.0f}"))
    return table(
        (
            "what is added",
            "ms a record of one",
            "so many score as long as the driver works alone",
            "so many wait for its reading",
        ),
        rows,
    )


def pairs_table(rates: Rates) -> str:
    gpu = GPU_PEAK * UTILISATION
    rows = []
    for d in (384, 1280):
        for name, workers, flops in (
            *((f"{cores:,} cores", cores, rates.pair_flops) for cores in (2, 16, 128, 1024)),
            ("1 GPU (assumed; the driver's own)", 1, gpu),
        ):
            rows.append(
                (str(d), name, *(rounded(most_rows(limit, d, workers, flops)) for limit in (60.0, HOUR, DAY)))
            )
    return table(("numbers a row", "on", "rows in a minute", "in an hour", "in a day"), rows)


def metrics_table(rates: Rates) -> str:
    rows = []
    for name, seconds in rates.passes.items():
        held = rates.row_bytes.get(name)
        rows.append(
            (
                name if name in ENGINES else f"`{name}`",
                f"{seconds * 1e6:.1f}",
                "not measured" if held is None else f"{held:,.0f}",
                *(
                    duration(n * seconds) + ("" if held is None else f", {n * held / 1e9:.1f} GB")
                    for n in SIZES
                ),
            )
        )
    return table(("pass", "µs a record", "bytes a record", *(f"{n:,} records" for n in SIZES)), rows)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def duration(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return (
                f"{seconds / unit:,.3g} {name}" if seconds < 1000 * unit else f"{seconds / unit:,.0f} {name}"
            )
    return f"{seconds:.2g} s"


def rounded(n: int) -> str:
    """To two digits."""
    digits = max(0, len(str(n)) - 2)
    return f"{round(n, -digits):,}"


def renewed(text: str, made: Mapping[str, str]) -> str:
    """The document with its tables made anew; each stands between two comments with its name.

    Raises ValueError where it has no place for one.
    """
    for name, body in made.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the document has no place for the table '{name}'")
        text = f"{before}{begin}\n{body}\n{end}{after}"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    made = tables(load())
    if parser.parse_args(arguments).write:
        document = DOCS / "cost_model.md"
        document.write_text(renewed(document.read_text(encoding="utf-8"), made), encoding="utf-8")
    else:
        print("\n".join(made.values()))


if __name__ == "__main__":
    main()
