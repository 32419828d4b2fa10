"""How many pictures a second does the CLIP backend embed, from JPEG files to unit rows, against the bare forward?

    python benchmarks/clip_throughput.py [--architectures ViT-B-32 ViT-L-14] [--pictures N] [--device cpu]

Weights are random: speed does not depend on them. The pictures, gradients with noise as JPEG files of 640 × 480,
are made in a temporary folder. One row an architecture, all columns of one run on one device:

* bare: the network's forward on tensors that lie on the device, same batch size and type; pictures a second
* embed: ``OpenClip.encode_images`` on decoded pictures: resizing, transfer, forward
* decode: ``MediaLoader`` alone, longest side at most 2048 pixels as the metrics ask for
* whole: both, 256 pictures being decoded while those before them are embedded, as in a run
* whole/bare: the share of the bare forward's speed that is left
* drift: largest |Δ cosine| of a picture and a text, autocast against float32, on CUDA only
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image as Pillow
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from vlitqc.media import MediaLoader
from vlitqc.models.open_clip import OpenClip
from vlitqc.models.torch_device import torch_device
from vlitqc.types import FloatArray, Media, ModelRef, Origin, Rgb, Sample, Turn

ARCHITECTURES = ("ViT-B-32", "ViT-L-14")
WIDTH, HEIGHT, LONGEST_SIDE = 640, 480, 2048
RECORDS = 256
"""Pictures that are decoded before they are embedded, as a run's batch is."""


def write_pictures(folder: Path, n: int) -> list[Sample]:
    """``n`` samples, each with a JPEG of its own."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j].astype(np.float32)

    def write(i: int) -> Sample:
        rng = np.random.default_rng(i)
        slopes = rng.uniform(-255, 255, (3, 2)).astype(np.float32)
        picture = np.stack([a * x + b * y for a, b in slopes], axis=-1)
        # Noise in blocks of 8 pixels: a file of about the size that a photograph has.
        noise = rng.normal(0, 40, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.float32)
        picture += np.kron(noise, np.ones((8, 8, 1), np.float32)) + rng.integers(0, 255)
        Pillow.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
        origin = Origin("made", i, i + 1, 0, 0, str(i))
        return Sample(str(i), (Turn("?", ""),), (Media("image", f"{i}.jpg"),), {}, origin)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(write, range(n)))


def decoded(loader: MediaLoader, samples: Sequence[Sample]) -> Iterator[list[Rgb]]:
    """The pictures, ``RECORDS`` at a time; the next are decoded while these are used, as in a run."""
    parts = [samples[start : start + RECORDS] for start in range(0, len(samples), RECORDS)]
    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(loader.load_batch, parts[0])
        for part in [*parts[1:], None]:
            rows = pending.result()
            if part is not None:
                pending = ahead.submit(loader.load_batch, part)
            yield [image.pixels for row in rows for image in row if image.pixels is not None]


def per_second(n: int, run: Callable[[], Any], device: str) -> float:
    """``n`` over the seconds that ``run`` takes until the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return n / (time.perf_counter() - started)


def bare_forward(network: Any, n: int, batch_size: int, half: torch.dtype | None, device: str) -> float:
    """Pictures a second of the image tower alone."""
    size = network.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    inputs = torch.randn(batch_size, 3, height, width, device=device)
    kind: AbstractContextManager[Any] = nullcontext() if half is None else torch.autocast(device, dtype=half)
    passes = max(1, round(n / batch_size))

    def run() -> None:
        for _ in range(passes):
            network.encode_image(inputs, normalize=True)

    with torch.inference_mode(), kind:
        network.encode_image(inputs, normalize=True)
        return per_second(passes * batch_size, run, device)


def cosines(model: OpenClip, pictures: Sequence[Rgb]) -> FloatArray:
    """``float32[pictures, texts]``."""
    things = [
        "a cat",
        "two dogs on a field",
        "a street at night",
        "a plate of food",
        "a red bus",
        "snow",
        "a face",
    ]
    return model.encode_images(pictures) @ model.encode_texts(things).T


def measure(architecture: str, samples: Sequence[Sample], root: Path, args: argparse.Namespace) -> list[str]:
    """One row of the table."""
    device, n = args.device, len(samples)
    torch.manual_seed(0)
    network = open_clip.create_model(architecture).eval()
    weights = root / f"{architecture}.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, str(weights))
    network = network.to(device)

    def model(precision: str) -> OpenClip:
        return OpenClip(
            ModelRef("ImageText", architecture, "random", "0" * 64),
            {"checkpoint": weights},
            architecture=architecture,
            precision=precision,
            batch_size=args.batch_size,
            threads=args.threads,
            device=device,
        )

    ours = model(args.precision)
    ours.load()
    loader = MediaLoader(root, longest_side=LONGEST_SIDE, threads=args.threads)
    first = next(decoded(loader, samples[: args.batch_size]))
    ours.encode_images(first)
    half = None
    if device == "cuda" and args.precision != "fp32":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        wants = {"auto": native, "bf16": True, "fp16": False}[args.precision]
        half = torch.bfloat16 if wants else torch.float16
    bare = bare_forward(network, n, args.batch_size, half, device)
    pictures = [picture for batch in decoded(loader, samples) for picture in batch]
    embed = per_second(n, lambda: ours.encode_images(pictures), device)
    decode = per_second(n, lambda: [len(batch) for batch in decoded(loader, samples)], device)
    whole = per_second(n, lambda: [ours.encode_images(batch) for batch in decoded(loader, samples)], device)
    drift = "not measured"
    if half is not None:
        exact = cosines(model("fp32"), pictures[:256])
        drift = f"{np.abs(cosines(ours, pictures[:256]) - exact).max():.1e}"
    weights.unlink()
    kind = str(half or torch.float32).removeprefix("torch.")
    speeds = [f"{value:,.1f}" for value in (bare, embed, decode, whole)]
    return [architecture, kind, str(n), *speeds, f"{whole / bare:.2f}", drift]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--pictures", type=int, help="default: 2048 on CUDA, 16 on a CPU")
    parser.add_argument("--batch-size", type=int, help="default: 256 on CUDA, 8 on a CPU")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 4)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # open_clip warns that the weights are random
    args.device = torch_device(args.device)
    on_gpu = args.device == "cuda"
    args.pictures = args.pictures or (2048 if on_gpu else 16)
    args.batch_size = args.batch_size or (256 if on_gpu else 8)
    name = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} torch threads"
    title = (
        f"pictures a second on {name}; {args.threads} threads decode and resize; batches of {args.batch_size}"
    )
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in (
        "architecture",
        "type",
        "pictures",
        "bare",
        "embed",
        "decode",
        "whole",
        "whole/bare",
        "drift",
    ):
        made.add_column(column, justify="left" if column in ("architecture", "type") else "right")
    with tempfile.TemporaryDirectory() as folder:
        samples = write_pictures(Path(folder), args.pictures)
        for architecture in args.architectures:
            made.add_row(*measure(architecture, samples, Path(folder), args))
    Console(width=None if sys.stdout.isatty() else 160).print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
