#!/usr/bin/env python3
"""Make a small LLaVA-format data set with planted defects, from pictures that installed packages ship.

    python examples/make_demo_data.py [OUT]          (OUT: examples/demo_data)

Nothing is downloaded: the pictures come from the wheels of scikit-image and scikit-learn, and the texts from
`demo_content.toml`. The same packages always give the same bytes.

OUT/data.jsonl     the records, one JSON object a line; spacing and escapes differ between lines on purpose
OUT/images/        the pictures
OUT/planted.json   every planted defect: `id` and `line` (1-based line of data.jsonl), `kind`, `note`, and
                   what should find it: `issue` (a kind of the run's issues table) or `metric` (the sample is
                   among the lowest tenth). With neither, the record is unusual but good and must be scored.
                   `of` is the id of the other record where a defect takes two.

A folder that this script did not make is never written to. In a folder that it did make, only the three
things above are replaced, so runs stored beside the data survive.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

HERE = Path(__file__).resolve().parent
CONTENT = HERE / "demo_content.toml"
MARKER = ".made-by-make-demo-data"
SEED = 20240701
CONSONANTS = "bcdfghjklmnpqrstvwxz"  # without a vowel no draw can be a word

PLANTS: dict[str, dict[str, str]] = {
    "wrong_caption": {"metric": "matching_degree"},
    "blurred_image": {"metric": "image_readability"},
    "noisy_image": {"metric": "image_readability"},
    "compressed_image": {"metric": "image_readability"},
    "word_salad": {"metric": "text_readability"},
    "gibberish": {"metric": "text_readability"},
    "exact_duplicate": {"issue": "exact_duplicate"},
    "near_duplicate_text": {"issue": "near_duplicate_text"},
    "near_duplicate_image": {"issue": "near_duplicate_image"},
    "rare_task": {"issue": "rare_task"},
    "tiny_image": {"issue": "small_image"},
    "truncated_image": {"issue": "truncated_image"},
    "not_an_image": {"issue": "unreadable_image"},
    "missing_image": {"issue": "missing_image"},
    "path_outside_root": {"issue": "path_outside_root"},
    "malformed_record": {"issue": "malformed_record"},
    "empty_turn": {"issue": "empty_turn"},
    "token_without_image": {"issue": "image_token_mismatch"},
    "image_without_token": {"issue": "image_token_mismatch"},
    "html": {},
}
"""Kind of planted defect → what finds it: an issue kind, the low end of a metric, or nothing to find."""

MALFORMED_AT, BLANK_AT = 29, 64
"""How many lines stand before the malformed line and before the blank line."""


def open_source(source: str) -> Image.Image:
    """The picture PACKAGE/PATH, as 8-bit grey or RGB (transparency flattened onto white).

    Read as a file of the package, not through its loader, because loaders may download what is not there.
    Raises FileNotFoundError when the package or the picture is not installed.
    """
    package, _, inner = source.partition("/")
    spec = find_spec(package)
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    path = next((root / inner for root in roots if (root / inner).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{source}: not installed; try: pip install scikit-image scikit-learn")
    with Image.open(path) as picture:
        if picture.mode in ("1", "L"):
            return picture.convert("L")
        layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def encode(picture: Image.Image, extension: str, quality: int = 92) -> bytes:
    """The picture as the bytes of a .jpg or .png file."""
    buffer = io.BytesIO()
    if extension == "jpg":
        picture.save(buffer, "JPEG", quality=quality)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def add_noise(picture: Image.Image, sigma: float) -> Image.Image:
    """The picture with Gaussian noise of standard deviation `sigma` (grey levels), always the same."""
    pixels = np.asarray(picture, dtype=np.float64)
    noisy = pixels + np.random.default_rng(SEED).normal(0.0, sigma, pixels.shape)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def make_picture(key: str, recipe: dict[str, Any]) -> tuple[str, bytes | None]:
    """(path relative to the data set's folder, file content or None when no file is to be written)."""
    damage = recipe.get("damage")
    if damage == "outside":
        return f"../{key}.jpg", None
    if damage == "missing":
        return f"images/{key}.jpg", None
    if damage == "text":
        return f"images/{key}.jpg", b"404 Not Found\nThe requested picture is no longer available.\n"

    picture = open_source(recipe["source"])
    if "box" in recipe:
        picture = picture.crop(tuple(recipe["box"]))
    if "scale" in recipe:
        size = (round(picture.width * recipe["scale"]), round(picture.height * recipe["scale"]))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    # Photographs in colour as JPEG, grey pictures and drawings as PNG: both formats occur in real data sets.
    extension = "jpg" if picture.mode == "RGB" else "png"
    quality = 92
    if damage == "blur":
        picture = picture.filter(ImageFilter.GaussianBlur(6))
    elif damage == "noise":
        picture = add_noise(picture, sigma=60.0)
    elif damage == "jpeg":
        quality = 2
    elif damage == "copy":
        extension, quality = "jpg", 80
        picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
    elif damage == "tiny":
        picture = picture.resize((32, 32), Image.Resampling.LANCZOS)
    content = encode(picture, extension, quality)
    if damage == "truncate":
        content = content[: len(content) // 2]
    return f"images/{key}.{extension}", content


def spoil(response: str, plant: str | None, rng: random.Random) -> str:
    """The response as it is, as word salad, or as gibberish of the same word lengths."""
    words = response.split()
    if plant == "word_salad":
        rng.shuffle(words)
    elif plant == "gibberish":
        words = ["".join(rng.choices(CONSONANTS, k=len(word))) for word in words]
    else:
        return response
    return " ".join(words)


def llava_record(entry: dict[str, Any], paths: dict[str, str]) -> dict[str, Any]:
    """One LLaVA record: `id`, `image` (a path, a list of paths, or absent) and `conversations`."""
    rng = random.Random(f"{SEED} {entry['turns'][0][0]}")  # the same for both records of a duplicate
    images = [paths[key] for key in entry.get("images", [])]
    tokens = entry.get("tokens", len(images))
    token_last = tokens == 1 and rng.random() < 0.3  # LLaVA's own data has the token before or after the text
    conversations = []
    for number, (instruction, response) in enumerate(entry["turns"]):
        before = "<image>\n" * tokens if number == 0 and not token_last else ""
        after = "\n<image>" if number == 0 and token_last else ""
        conversations.append({"from": "human", "value": before + instruction + after})
        conversations.append({"from": "gpt", "value": spoil(response, entry.get("plant"), rng)})
    record: dict[str, Any] = {"id": entry["id"]}
    if images:
        record["image"] = images[0] if len(images) == 1 else images
    record["conversations"] = conversations
    return record


def copy_of(entry: dict[str, Any], others: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry, with pictures and turns taken from the record that it is an exact duplicate of."""
    if entry.get("plant") != "exact_duplicate":
        return entry
    original = others[entry["of"]]
    return {**{key: original[key] for key in ("images", "turns") if key in original}, **entry}


def write_line(record: dict[str, Any], number: int) -> str:
    """The record as JSON, in one of six byte layouts: spaced or compact, escaped or raw, id first or last.

    A tool that keeps a record must write it back byte for byte, so no single serializer should reproduce all.
    """
    separators = (", ", ": ") if number % 2 else (",", ":")
    if number % 5 == 0:
        record = {**{key: value for key, value in record.items() if key != "id"}, "id": record["id"]}
    return json.dumps(record, ensure_ascii=number % 3 == 0, separators=separators)


def planted_entry(entry: dict[str, Any], line: int) -> dict[str, Any]:
    """The entry of planted.json for a planted record; a record that cannot be parsed has no id."""
    kind = entry["plant"]
    identity = {"id": entry["id"]} if "id" in entry else {}
    other = {"of": entry["of"]} if "of" in entry else {}
    return {**identity, "line": line, "kind": kind, **PLANTS[kind], "note": entry["note"], **other}


def build_lines(content: dict[str, Any], paths: dict[str, str]) -> tuple[list[str], list[dict[str, Any]]]:
    """(the lines of data.jsonl, the planted defects in the order of their lines)."""
    entries: list[dict[str, Any]] = list(content["records"])
    by_id = {entry["id"]: entry for entry in entries}
    random.Random(SEED).shuffle(entries)  # so that the planted records are spread over the file

    lines: list[str] = []
    planted: list[dict[str, Any]] = []
    for entry in entries:
        if len(lines) == MALFORMED_AT:
            whole = json.dumps(llava_record(by_id["cat-caption"], paths))
            lines.append(whole[: len(whole) * 2 // 3])
            defect = {"plant": "malformed_record", "note": "the JSON object breaks off"}
            planted.append(planted_entry(defect, len(lines)))
        if len(lines) == BLANK_AT:
            lines.append("")
        lines.append(write_line(llava_record(copy_of(entry, by_id), paths), len(lines)))
        if "plant" in entry:
            planted.append(planted_entry(entry, len(lines)))
    return lines, planted


def prepare_folder(out: Path) -> None:
    """Make `out`, or remove from it what an earlier call wrote. Raises FileExistsError if it is not ours."""
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and was not made by this script; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("This folder is rewritten by examples/make_demo_data.py.\n", encoding="utf-8")
    for name in ("data.jsonl", "planted.json"):
        (out / name).unlink(missing_ok=True)
    if (out / "images").exists():
        shutil.rmtree(out / "images")
    (out / "images").mkdir()


def build(out: Path) -> tuple[int, list[dict[str, Any]]]:
    """Write the data set into `out`; return the number of well-formed records and the planted defects.

    Raises FileExistsError when `out` is a folder that this script did not make, and FileNotFoundError when a
    package with the pictures is not installed.
    """
    content = tomllib.loads(CONTENT.read_text(encoding="utf-8"))
    pictures = {key: make_picture(key, recipe) for key, recipe in content["pictures"].items()}
    lines, planted = build_lines(content, {key: path for key, (path, _) in pictures.items()})

    prepare_folder(out)
    for path, data in pictures.values():
        if data is not None:
            (out / path).write_bytes(data)
    (out / "data.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    text = json.dumps(planted, indent=1, ensure_ascii=False)
    (out / "planted.json").write_text(f"{text}\n", encoding="utf-8", newline="\n")
    return len(content["records"]), planted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the demo data set, with planted defects.")
    parser.add_argument("out", nargs="?", type=Path, default=HERE / "demo_data", metavar="OUT")
    out: Path = parser.parse_args(argv).out
    try:
        records, planted = build(out)
    except OSError as error:
        print(f"make_demo_data: {error}", file=sys.stderr)
        return 1
    print(f"{out / 'data.jsonl'}: {records} records, {len(planted)} planted defects")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
