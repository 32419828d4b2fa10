"""Whole runs of ``vlitqc.score`` over JPEG files and captions, beside the bare forward of the same models.

Ours is the rate of a finished run without its start: what many pictures take longer than few, with empty caches, in the
median turn.
Bare is the network alone on decoded and resized pictures in memory, in the fastest of several batch sizes and each pass
on all cores. Our runs take several passes at once, one a core, which is faster: that without anything around it is a
row of its own, and a run that comes out above it by more than noise is not believed.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image as Pillow

import random_clip
import vlitqc
from inputs import Pair, pairs, write_llava
from row import Options, Row, interleaved, main, peak_mb, turns, without_start
from vlitqc.models.batching import Passes
from vlitqc.models.efficientnet_lite import CHUNK, CUDA_CHUNK, crop, folded, network_input

FEW, MANY, QUICK = 60, 460, (2, 6)
CLIP_MANY = 220
BARE = 96
"""Pictures that a bare forward takes."""
AS_OURS = "the same as ours runs it: side by side"
BATCHES = (4, 8, 32)
TRIED = 64
RUNS = 3
MATCHING, DIVERSITY = "matching_degree", "visual_semantic_diversity"


def rows(options: Options) -> Iterator[Row]:
    """Lite and CLIP."""
    few, many = QUICK if options.quick else (FEW, MANY)
    runs = 1 if options.quick else RUNS
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        found = pairs(many, root / "pictures", options.data)
        yield from lite(found, few, runs, root)
        yield from clip(found[:CLIP_MANY], few, runs, root)


def lite(found: Sequence[Pair], few: int, runs: int, root: Path) -> Iterator[Row]:
    """Matching and diversity of one run, which share their pictures' features."""
    inputs = network_input(torch.from_numpy(np.stack([crop(decoded(path)) for path, _ in found[:BARE]])))
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    passes = Passes("cpu", cpu=CHUNK, cuda=CUDA_CHUNK)
    ready = folded(EfficientNet.from_name("efficientnet-lite0").eval())

    def alone(size: int, n: int = BARE) -> None:
        with torch.inference_mode():
            for part in inputs[:n].split(size):
                own(part)

    def side_by_side() -> None:
        passes.parts(len(inputs), lambda part: ready(inputs[part]))

    alone(BATCHES[0], TRIED)
    tried = interleaved(2, *(partial(alone, size, TRIED) for size in BATCHES))
    size = BATCHES[int(np.argmin(tried))]
    bares: list[Callable[[], None]] = [partial(alone, size), side_by_side]
    ours, doubt, (bare, fast) = measured(runs, found, few, root, "lite", (MATCHING, DIVERSITY), bares)
    what = f"lite: matching and diversity of {len(found)} pictures with captions"
    note = doubt or "ours also encodes the captions, with all-MiniLM-L6-v2"
    against = f"bare EfficientNet-Lite0, batches of {size}"
    wanted = None if doubt else 0.9
    yield Row("end_to_end", what, ours, "pairs/s", against, bare, wanted, note, peak_mb())
    yield Row("end_to_end", what, ours, "pairs/s", f"{AS_OURS}, folded", fast, None)


def clip(found: Sequence[Pair], few: int, runs: int, root: Path) -> Iterator[Row]:
    """The image tower by diversity, both towers by matching."""
    made = random_clip.network()
    profile = random_clip.write_profile(made, root)
    bare = random_clip.Bare(made, found[:BARE])
    fastest = partial(bare.side_by_side, random_clip.model(profile))
    fastest()
    tried = interleaved(2, *(partial(bare.pictures, size) for size in BATCHES))
    size = BATCHES[int(np.argmin(tried))]
    pictures = partial(bare.pictures, size)

    def both() -> None:
        pictures()
        bare.texts()

    bares: list[Callable[[], None]] = [pictures, fastest]
    ours, doubt, (alone, fast) = measured(runs, found, few, root, str(profile), (DIVERSITY,), bares)
    what = f"CLIP ViT-B/32: diversity of {len(found)} pictures"
    wanted = None if doubt else 0.95
    yield Row(
        "end_to_end",
        what,
        ours,
        "pictures/s",
        f"bare image tower, batches of {size}",
        alone,
        wanted,
        doubt,
        peak_mb(),
    )
    yield Row("end_to_end", what, ours, "pictures/s", AS_OURS, fast, None)
    # Nothing is faster than the pictures alone; both towers can be beaten where captions are short.
    bares = [both, fastest]
    ours, doubt, (theirs, _) = measured(runs, found, few, root, str(profile), (MATCHING,), bares)
    what = f"CLIP ViT-B/32: matching of {len(found)} pictures with captions"
    note = doubt or "bare texts are as long as the context"
    wanted = None if doubt else 0.95
    yield Row("end_to_end", what, ours, "pairs/s", "bare image and text towers", theirs, wanted, note)


def measured(
    runs: int,
    found: Sequence[Pair],
    few: int,
    root: Path,
    profile: str,
    metrics: Sequence[str],
    bare: Sequence[Callable[[], None]],
) -> tuple[float, str, list[float]]:
    """Records a second of the run without its start, what speaks against that number, and those of each bare forward.

    Of ``runs`` turns the median. Each of ``bare`` takes the first ``BARE`` pictures; the last is what no run can be
    faster than.
    """

    def score(n: int) -> None:
        # A new folder each time: nothing is known from the run before.
        with tempfile.TemporaryDirectory(dir=root) as work:
            data = write_llava(found[:n], Path(work) / "data.jsonl")
            with patch.dict("os.environ", VLITQC_CACHE=work):
                vlitqc.score(
                    data, profile, metrics=metrics, out=Path(work) / "run", allow_outside=True, report=False
                )

    score(few)
    short, long, *others = turns(runs, partial(score, few), partial(score, len(found)), *bare)
    rates = [min(BARE, len(found)) / statistics.median(seconds) for seconds in others]
    return *without_start(few, len(found), (short, long), rates[-1]), rates


def decoded(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Pillow.open(path).convert("RGB"))


if __name__ == "__main__":
    main(rows)
