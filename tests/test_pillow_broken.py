"""Pillow's own broken pictures: each is decoded or has a fault with a reason, as the table beside them says."""

from __future__ import annotations

import ast
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageOps

from vlitqc.media import MediaLoader, issue_kind, remarks
from vlitqc.types import Image, Media

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "pillow_broken"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no shared data here")

STRICTER: dict[str, str] = {}
"""Files that Pillow loads and this project refuses, with the reason. There is none."""

SIDEWAYS = ("5", "6", "7", "8")
SEVERAL = {
    "apng/chunk_no_fdat.png": "animated_image",
    "apng/mode_16bit.png": "animated_image",
    "chi.gif": "animated_image",
    "different_transparency.gif": "animated_image",
    "duplicate_frame.gif": "animated_image",
    "iss634.apng": "animated_image",
    "iss634.webp": "animated_image",
    "multipage.tiff": "multipage_image",
    "no_palette_with_background.gif": "animated_image",
}


def expected() -> list[dict[str, str]]:
    with (FOLDER / "EXPECTED_pillow.tsv").open() as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    keys = ("file", "bytes", "header", "orientation", "result")
    return [dict(zip(keys, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def images() -> dict[str, Image]:
    loader = MediaLoader(FOLDER, longest_side=4096)
    return {row["file"]: loader.load(Media("image", row["file"])) for row in expected()}


def test_the_table(images: dict[str, Image], capsys: Any) -> None:
    rows = expected()
    with capsys.disabled():
        print()
        for row in rows:
            image = images[row["file"]]
            told = image.fault or f"{image.format} {image.width} × {image.height}"
            print(f"  {row['file'][:47]:47}  {row['result'][:8]:8}  {told[:90]}")
    assert len(rows) == 42
    for row in rows:
        image = images[row["file"]]
        assert (image.pixels is None) != (image.fault is None)
        assert image.n_bytes == int(row["bytes"])
        opens = row["result"] == "ok" and row["file"] not in STRICTER
        assert (image.fault is None) == opens, (row["file"], image.fault)
        if image.fault is not None:
            assert issue_kind(image.fault) in ("unreadable_image", "truncated_image")
            assert image.fault.partition(": ")[2]


def test_what_is_decoded_has_the_size_that_pillow_says(images: dict[str, Image]) -> None:
    for row in expected():
        if row["result"] != "ok":
            continue
        form, _, (width, height), _ = ast.literal_eval(row["header"])
        if row["orientation"] in SIDEWAYS:
            width, height = height, width
        image = images[row["file"]]
        assert (image.format, image.width, image.height) == (form, width, height), row["file"]
        assert image.pixels is not None and image.pixels.shape == (height, width, 3)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata
def test_opaque_pictures_have_the_pixels_that_pillow_gives(images: dict[str, Image]) -> None:
    compared = 0
    for row in expected():
        if row["result"] == "ok" and row["header"].split(",")[1].strip() in ("'RGB'", "'L'", "'CMYK'"):
            with PilImage.open(FOLDER / row["file"]) as picture:
                if picture.has_transparency_data:
                    continue
                upright = ImageOps.exif_transpose(picture).convert("RGB")
            assert np.array_equal(images[row["file"]].pixels, np.array(upright)), row["file"]  # type: ignore[arg-type]
            compared += 1
    assert compared >= 18


def test_words_of_the_faults(images: dict[str, Image]) -> None:
    said = {name: image.fault for name, image in images.items() if image.fault}
    assert said["truncated_jpeg.jpg"] == "truncated: image file is truncated (8 bytes not processed)"
    assert said["decompression_bomb.ico"].startswith("too large: ")
    assert said["bmp/b/badwidth.bmp"].startswith("too large: ")
    assert said["bmp/b/badbitcount.bmp"] == "unreadable: Unsupported BMP pixel depth (30000)"
    assert said["zero_width.gif"] == "unreadable: the header of a GIF picture, and it is broken"
    assert len(said) == 7


def test_notes(images: dict[str, Image]) -> None:
    found = {name: [kind for kind, _ in remarks(image)] for name, image in images.items()}
    assert {name: kinds for name, kinds in found.items() if kinds} == {
        name: [kind] for name, kind in SEVERAL.items()
    }
