"""Pictures with captions for the areas that need some: real ones where ``--data`` holds them, else made ones."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

WIDTH, HEIGHT = 640, 480
Pair = tuple[Path, str]
"""A picture and its caption."""


def pairs(n: int, folder: Path, data: Path | None) -> list[Pair]:
    """``n`` JPEG files with one caption each, no two alike: those of ``data``, then made ones under ``folder``."""
    real = list(islice(_real(data), n)) if data else []
    return real + made_pairs(n - len(real), folder)


def made_pairs(n: int, folder: Path) -> list[Pair]:
    """Gradients with noise in blocks of 8 pixels, so that a file has about the size of a photograph's."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j].astype(np.float32)

    def write(i: int) -> Pair:
        rng = np.random.default_rng(i)
        slopes = rng.uniform(-255, 255, (3, 2)).astype(np.float32)
        picture = np.stack([a * x + b * y for a, b in slopes], axis=-1)
        noise = rng.normal(0, 40, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.float32)
        picture += np.kron(noise, np.ones((8, 8, 1), np.float32)) + rng.integers(0, 255)
        path = folder / f"{i}.jpg"
        Pillow.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=90)
        return path, _caption(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(write, range(n)))


def write_llava(found: Sequence[Pair], path: Path) -> Path:
    """The pairs as conversations about pictures, with absolute paths."""
    with path.open("w", encoding="utf-8") as file:
        for i, (picture, caption) in enumerate(found):
            turns = [
                {"from": "human", "value": "<image>\nWhat is in the picture?"},
                {"from": "gpt", "value": caption},
            ]
            file.write(json.dumps({"id": str(i), "image": str(picture), "conversations": turns}) + "\n")
    return path


def _real(data: Path) -> Iterator[Pair]:
    for listed in sorted((data / "joined").glob("*_photos.jsonl")):
        for line in listed.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            yield data / record["image"], record["captions"][0]


def _caption(i: int) -> str:
    """Of 11 to 15 words, as people write them."""
    pick = random.Random(i).choice
    things = (
        "dog",
        "boat",
        "woman",
        "red bus",
        "child",
        "tower",
        "cat",
        "man on a bicycle",
        "plate of food",
        "horse",
    )
    places = (
        "on a beach",
        "in a busy street",
        "under tall trees",
        "beside a white house",
        "at night",
        "in the snow",
    )
    doings = ("stands", "can be seen", "waits", "moves slowly", "rests")
    return f"A {pick(things)} {pick(doings)} {pick(places)} near a {pick(things)} and {i + 2} other things."
