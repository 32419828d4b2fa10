"""Picture models beside the bare networks they wrap: what decoding, resizing and copying leave of their speed.

EfficientNet-Lite0 and CLIP ViT-B/32 stand against their networks as their packages give them, on tensors that are
ready. Whole runs are in ``end_to_end.py``; here nothing but pictures is computed. Weights of CLIP are random.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image as Pillow
from safetensors.torch import save_file

from inputs import pairs
from row import Options, Row, Skipped, interleaved, main
from vlitqc import profiles
from vlitqc.media.pictures import MAX_PIXELS, decode
from vlitqc.models.efficientnet_lite import EfficientNetLite, crop, network_input
from vlitqc.models.open_clip import OpenClip
from vlitqc.models.store import ModelStore
from vlitqc.types import FloatArray, ModelRef, Rgb, processors
from vlitqc_metrics._algorithms.image_quality import image_readability
from vlitqc_metrics._algorithms.picture_threads import each_picture
from vlitqc_metrics._algorithms.visual_complexity import visual_complexity

AREA = "pictures"
LONGEST_SIDE = 2048
"""What the metrics ask of a picture."""
EAGER = (2, 4, 8, 32)
"""Batch sizes of the package's own network, of which the fastest counts."""
LARGE = "ViT-L-14"
GPU_PICTURES, GPU_BATCH = 4096, 256


def rows(options: Options) -> Iterator[Row]:
    """All of them; those of a GPU last."""
    lite, clip, repeats = (8, 4, 1) if options.quick else (96, 48, 3)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        files = [path.read_bytes() for path, _ in pairs(lite, root / "pictures", options.data)]
        yield from decoding(files, repeats)
        pictures = [decode(data, LONGEST_SIDE, MAX_PIXELS).pixels for data in files]
        yield from efficientnet(files, pictures, repeats)
        yield from vit(files[:clip], root, repeats)
        yield from classical(pictures, repeats)
        yield from gpu(root, options)


def decoding(files: Sequence[bytes], repeats: int) -> Iterator[Row]:
    """One thread; both give an array of the picture in its own size."""

    def ours() -> None:
        for data in files:
            decode(data, LONGEST_SIDE, MAX_PIXELS)

    def plain() -> None:
        for data in files:
            np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))

    decode(files[0], LONGEST_SIDE, MAX_PIXELS)
    seconds = interleaved(repeats, ours, plain)
    yield rate("decode JPEG to RGB, one thread", "Pillow and numpy alone", len(files), seconds, 0.9)


def efficientnet(files: Sequence[bytes], pictures: Sequence[Rgb], repeats: int) -> Iterator[Row]:
    """The lite profile's encoder."""
    model: EfficientNetLite = ModelStore(profiles.load("lite"), device="cpu").get("efficientnet")
    model.forward(pictures[:8])
    eager: Any = EfficientNet.from_name("efficientnet-lite0")
    eager.load_state_dict(torch.load(model._weights, weights_only=True))
    eager.eval().to(memory_format=torch.channels_last)
    tensors = network_input(torch.from_numpy(np.stack([crop(pixels) for pixels in pictures])))
    network, passes = model._load()

    def bare(size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(tensors), size):
                eager(tensors[start : start + size])

    def own() -> None:
        passes.parts(len(tensors), lambda part: network(tensors[part]))

    def whole() -> None:
        decoded_ahead(files, model.forward)

    sizes = {size: partial(bare, size) for size in EAGER}
    *theirs, alone, embed, all_of_it = interleaved(
        repeats, *sizes.values(), own, lambda: model.forward(pictures), whole
    )
    best = int(np.argmin(theirs))
    against = f"bare network, batches of {EAGER[best]}"
    n = len(files)
    yield rate("EfficientNet-Lite0, decoded pictures to features", against, n, [embed, theirs[best]], 0.9)
    yield rate("EfficientNet-Lite0, JPEG to features", against, n, [all_of_it, theirs[best]], 0.9)
    own_against = "our network alone, normalisation folded in"
    yield rate("EfficientNet-Lite0, JPEG to features", own_against, n, [all_of_it, alone], None)
    with torch.inference_mode():
        expected = eager.extract_features(tensors[:32]).mean(dim=(2, 3)).numpy()
    found = model.forward(pictures[:32]).features
    drift = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    yield rate(
        "EfficientNet-Lite0, our network alone", against, n, [alone, theirs[best]], None, f"drift {drift:.0e}"
    )


def vit(files: Sequence[bytes], root: Path, repeats: int) -> Iterator[Row]:
    """The image tower of CLIP on the CPU."""
    network, model = clip_model("ViT-B-32", root, "cpu")
    pictures = [decode(data, LONGEST_SIDE, MAX_PIXELS).pixels for data in files]
    model.encode_images(pictures[:2])
    tensors = torch.randn(len(files), 3, 224, 224)

    def bare(size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(tensors), size):
                network.encode_image(tensors[start : start + size], normalize=True)

    *theirs, embed, all_of_it = interleaved(
        repeats,
        *(partial(bare, size) for size in (8, 32)),
        lambda: model.encode_images(pictures),
        lambda: decoded_ahead(files, model.encode_images),
    )
    against = f"bare image tower, batches of {(8, 32)[int(np.argmin(theirs))]}"
    n = len(files)
    yield rate("CLIP ViT-B/32, decoded pictures to rows", against, n, [embed, min(theirs)], 0.95)
    yield rate("CLIP ViT-B/32, JPEG to rows", against, n, [all_of_it, min(theirs)], 0.95)


def classical(pictures: Sequence[Rgb], repeats: int) -> Iterator[Row]:
    """Measures without a network, which run for every picture of the lite profile."""
    for name, measure in (("visual complexity", visual_complexity), ("readability", image_readability)):

        def one_by_one(measure: Callable[[Rgb], float] = measure) -> None:
            for pixels in pictures:
                measure(pixels)

        seconds = interleaved(repeats, partial(each_picture, measure, pictures), one_by_one)
        yield rate(f"classical {name}", "one thread", len(pictures), seconds, None)


def gpu(root: Path, options: Options) -> Iterator[Row]:
    """CLIP ViT-L/14 in half precision, from JPEG files on disk."""
    if not torch.cuda.is_available():
        raise Skipped(
            f"no GPU: {LARGE} from JPEG files in half precision, with the batch size found by trial; "
            "these code paths are tested on the CPU"
        )
    n = 64 if options.quick else GPU_PICTURES
    paths = [path for path, _ in pairs(n, root / "gpu", options.data)]
    network, model = clip_model(LARGE, root, "cuda")
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    tensors = torch.randn(min(n, GPU_BATCH), 3, 224, 224, device="cuda")
    kind: AbstractContextManager[Any] = torch.autocast("cuda", dtype=half)

    def bare() -> None:
        with torch.inference_mode(), kind:
            for _ in range(max(1, n // len(tensors))):
                network.encode_image(tensors, normalize=True)
        torch.cuda.synchronize()

    def whole() -> None:
        decoded_ahead(paths, model.encode_images)

    whole()  # finds the batch size
    seconds = interleaved(1 if options.quick else 3, whole, bare)
    found = model._ready().passes.size("image")
    drift = autocast_drift(
        root, model, [decode(path.read_bytes(), LONGEST_SIDE, MAX_PIXELS).pixels for path in paths[:64]]
    )
    note = f"{torch.cuda.get_device_name()}; batch size found {found}; largest change of a cosine {drift:.1e}"
    yield rate(f"CLIP {LARGE}, JPEG files to rows, {half}", "bare image tower", n, seconds, 0.9, note)


def autocast_drift(root: Path, model: OpenClip, pictures: Sequence[Rgb]) -> float:
    """The largest |Δ cosine| between pictures and a few texts against float32."""
    texts = [
        "a cat",
        "two dogs on a field",
        "a street at night",
        "a plate of food",
        "a red bus",
        "snow",
        "a face",
    ]

    def cosines(of: OpenClip) -> FloatArray:
        found: FloatArray = of.encode_images(pictures) @ of.encode_texts(texts).T
        return found

    exact = load_clip(LARGE, root / f"{LARGE}.safetensors", "cuda", "fp32")
    return float(np.abs(cosines(model) - cosines(exact)).max())


def clip_model(architecture: str, root: Path, device: str) -> tuple[Any, OpenClip]:
    """The bare network, and our model from a checkpoint of the same weights."""
    logging.disable(logging.WARNING)  # open_clip warns that the weights are random
    torch.manual_seed(0)
    network = open_clip.create_model(architecture).eval().requires_grad_(False)
    weights = root / f"{architecture}.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, str(weights))
    return network.to(device), load_clip(architecture, weights, device, "auto")


def load_clip(architecture: str, weights: Path, device: str, precision: str) -> OpenClip:
    return OpenClip(
        ModelRef("ImageText", architecture, "random", "0" * 64),
        {"checkpoint": weights},
        architecture=architecture,
        precision=precision,
        threads=processors(),
        device=device,
    )


def decoded_ahead(
    files: Sequence[bytes | Path], use: Callable[[Sequence[Rgb]], object], batch: int = 32
) -> None:
    """``use`` of the decoded pictures, 32 at a time on a CPU; the next are decoded meanwhile, as in a run."""

    def read(file: bytes | Path) -> Rgb:
        data = file if isinstance(file, bytes) else file.read_bytes()
        return decode(data, LONGEST_SIDE, MAX_PIXELS).pixels

    batch = GPU_BATCH if torch.cuda.is_available() else batch
    parts = [files[start : start + batch] for start in range(0, len(files), batch)]
    with ThreadPoolExecutor(processors()) as pool:
        coming = [pool.submit(read, file) for file in parts[0]]
        for following in [*parts[1:], []]:
            pictures = [future.result() for future in coming]
            coming = [pool.submit(read, file) for file in following]
            use(pictures)


def rate(
    what: str, against: str, n: int, seconds: Sequence[float], wanted: float | None, note: str = ""
) -> Row:
    """Pictures a second of ours and theirs."""
    ours, theirs = (n / each for each in seconds)
    return Row(AREA, what, ours, "pictures/s", against, theirs, wanted, note)


if __name__ == "__main__":
    main(rows)
