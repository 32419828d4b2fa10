"""Precision and recall of the recipes against defects that were planted and are therefore known.

    python benchmarks/recipes.py [--data DIR]

Two sets. **demo**: the data of examples/make_demo_data.py. **photos** (only with --data): the photographs with human
captions below DIR/joined and DIR/llava_pretrain_2k, one record a picture, with some 5% of each kind of ``KINDS``
planted by a seed; all others are as they were. Every third photograph stands there twice, with the caption of another
person: such a pair is legitimate. Both sets are scored by the profile lite.

- *precision*: of the records that a recipe removes (dropped or unreadable), the share that was planted, whatever the
  kind. *of its own*: the share that is of a kind that the recipe is meant to catch (``CATCHES``).
- *recall*: of the planted records of those kinds, the share that the recipe removes.

Of a planted repetition either record may go. Captions from the web have real faults too, so what was removed without
having been planted is listed, with its reason, for a person to judge. Some two minutes on two cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from validity_sets import QUESTIONS

import vlitqc
from vlitqc.engine.run import Run

SEED = 20240701
SHARE = 0.05
FIRST = 10
ROOT = Path(__file__).resolve().parents[1]

CLEAN = (
    "malformed_record", "missing_image", "not_an_image", "truncated_image", "empty_turn", "token_without_image",
    "image_without_token", "token_mismatch", "exact_duplicate",
)  # fmt: skip
DEDUP = ("exact_duplicate", "near_duplicate_text")
ALIGN = (*CLEAN, "wrong_caption")
PAPER = (
    *ALIGN, "near_duplicate_text", "blurred_image", "noisy_image", "compressed_image", "word_salad", "gibberish",
)  # fmt: skip
CATCHES: dict[str, tuple[str, ...]] = {
    "clean": CLEAN,
    "dedup": ("malformed_record", *DEDUP),
    "align": ALIGN,
    "paper": PAPER,
}
"""Which kinds of defect each recipe is meant to catch. What cannot be read goes with every filter."""

UNUSUAL = frozenset(("html", "rare_task", "near_duplicate_image"))
"""Planted in the demo data, and no defects: good records that are to stay."""

CONSONANTS = "bcdfghjklmnpqrstvwxz"

Record = dict[str, Any]


@dataclass
class Planted:
    """A data file and what was planted in it: kinds by id, and of repetitions the id of the other record."""

    path: Path
    kinds: dict[str, str]
    other: dict[str, str] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)


# ---------------------------------------------------------------- planting


def sources(data: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every picture with captions that people wrote (Flickr8k, COCO) or with the one that it has on the web."""
    for name in ("flickr8k_photos", "coco_photos"):
        for line in (data / "joined" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            yield data / record["image"], record["captions"]
    listed = data / "llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json"
    for record in json.loads(listed.read_text(encoding="utf-8")):
        yield listed.parent / "images" / record["image"], [record["conversations"][1]["value"]]


def record_of(name: str, image: str, question: str, caption: str) -> Record:
    """A LLaVA record."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": caption}]
    return {"id": name, "image": image, "conversations": turns}


def reworded(caption: str, rng: random.Random) -> str:
    """The caption with a word or two more, or another article."""
    plain = caption.strip().rstrip(" .")
    lower = plain[:1].lower() + plain[1:]
    article = plain.replace("A ", "The ", 1) if plain.startswith("A ") else f"the {lower}"
    return rng.choice(
        [f"In this picture, {lower}.", f"{plain} in the photo.", f"{article}.", f"{plain}, as seen here."]
    )


def plant(data: Path, home: Path) -> Planted:
    """Write ``home/data.jsonl`` and the pictures, with ``SHARE`` of the records spoilt in each way."""
    rng = random.Random(SEED)
    (home / "images").mkdir(parents=True)
    records: list[Record] = []
    added: list[Record] = []
    for i, (picture, captions) in enumerate(sources(data)):
        twice = i % 3 == 0 and len(captions) > 1
        for into, caption, end in ((records, captions[0], ""), (added, captions[-1], "-too"))[: 1 + twice]:
            name = f"r{i:04}{end}"
            image = f"images/{name}{picture.suffix}"
            shutil.copyfile(picture, home / image)
            into.append(record_of(name, image, rng.choice(QUESTIONS), caption))
    order = rng.sample(range(len(records)), len(records))
    each = round(SHARE * len(records))
    told = Planted(home / "data.jsonl", {})
    responses = [record["conversations"][1]["value"] for record in records]
    for k, kind in enumerate(KINDS):
        for i in order[k * each : (k + 1) * each]:
            record = records[i]
            if kind in DEDUP:
                record = json.loads(json.dumps(record)) | {"id": f"{record['id']}-again"}
                told.other[record["id"]] = records[i]["id"]
                added.append(record)
            told.kinds[record["id"]] = kind
            KINDS[kind](record, home, responses, rng)
    for record in added:
        records.insert(rng.randrange(len(records) + 1), record)
    told.path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return told


def _response(change: Callable[[str, list[str], random.Random], str]) -> Callable[..., None]:
    def spoil(record: Record, home: Path, captions: list[str], rng: random.Random) -> None:
        turn = record["conversations"][1]
        turn["value"] = change(turn["value"], captions, rng)

    return spoil


def _bytes(change: Callable[[bytes], bytes | None]) -> Callable[..., None]:
    def spoil(record: Record, home: Path, captions: list[str], rng: random.Random) -> None:
        path = home / record["image"]
        content = change(path.read_bytes())
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return spoil


def _picture(change: Callable[[Image.Image], Image.Image]) -> Callable[..., None]:
    def spoil(record: Record, home: Path, captions: list[str], rng: random.Random) -> None:
        path = home / record["image"]
        with Image.open(path) as picture:
            changed = change(picture.convert("RGB"))
        changed.save(path, "JPEG", quality=92)

    return spoil


def _noisy(picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture, np.float64)
    noise = np.random.default_rng(SEED).normal(0, 60, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _extra_token(record: Record, home: Path, captions: list[str], rng: random.Random) -> None:
    turn = record["conversations"][0]
    turn["value"] = f"<image>\n{turn['value']}"


def _another(caption: str, captions: list[str], rng: random.Random) -> str:
    return rng.choice([other for other in captions if other != caption])


def _shuffled(caption: str, captions: list[str], rng: random.Random) -> str:
    words = caption.split()
    return " ".join(rng.sample(words, len(words)))


def _letters(caption: str, captions: list[str], rng: random.Random) -> str:
    return " ".join("".join(rng.choices(CONSONANTS, k=len(word))) for word in caption.split())


KINDS: dict[str, Callable[..., None]] = {
    "exact_duplicate": lambda *_: None,
    "near_duplicate_text": _response(lambda caption, _, rng: reworded(caption, rng)),
    "empty_turn": _response(lambda *_: ""),
    "token_mismatch": _extra_token,
    "missing_image": _bytes(lambda _: None),
    "truncated_image": _bytes(lambda content: content[: len(content) // 2]),
    "not_an_image": _bytes(lambda _: b"404 Not Found\nThe picture is no longer available.\n"),
    "wrong_caption": _response(_another),
    "blurred_image": _picture(lambda picture: picture.filter(ImageFilter.GaussianBlur(6))),
    "noisy_image": _picture(_noisy),
    "word_salad": _response(_shuffled),
    "gibberish": _response(_letters),
}
"""What is planted in the photographs, and how."""


def demo(home: Path) -> Planted:
    """The demo data and what its planted.json tells."""
    place = ROOT / "examples/make_demo_data.py"
    spec = importlib.util.spec_from_file_location("make_demo_data", place)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    _, entries = script.build(home)
    entries = [entry for entry in entries if entry["kind"] not in UNUSUAL]
    named = [entry for entry in entries if "id" in entry]
    return Planted(
        home / "data.jsonl",
        {entry["id"]: entry["kind"] for entry in named},
        {entry["id"]: entry["of"] for entry in named if entry["kind"] in DEDUP},
        {entry["line"]: entry["kind"] for entry in entries if "id" not in entry},
    )


# ---------------------------------------------------------------- judging


@dataclass
class Outcome:
    """What a recipe removed, by what had been planted."""

    removed: int
    planted: int
    own: int
    found: Counter[str]
    others: list[tuple[str, str]]


def outcome(run: Run, recipe: str, planted: Planted) -> Outcome:
    """Decide without writing, and hold the fates against what was planted."""
    told = vlitqc.filter(run, recipe=recipe, dry_run=True).decisions
    gone = told[told["fate"] != "kept"]
    reasons = {
        str(name or ""): "; ".join(dict.fromkeys(entry["rule"] for entry in failed))
        for name, failed in zip(gone["id"], gone["rules_failed"], strict=True)
    }
    found: Counter[str] = Counter()
    explained: set[str] = set()
    for name, kind in planted.kinds.items():
        # Of a repetition one may go, and not the other for a defect of its own.
        other = planted.other.get(name, name)
        hit = name if name in reasons or other in planted.kinds else other
        if hit in reasons:
            found[kind] += 1
            explained.add(hit)
    by_line = [planted.lines[line] for line in gone["line"] if line in planted.lines]
    found.update(by_line)
    own = sum(found[kind] for kind in CATCHES[recipe])
    others = [(name, why) for name, why in reasons.items() if name and name not in explained]
    return Outcome(len(gone), len(explained) + len(by_line), own, found, others)


def share(part: int, whole: int) -> str:
    """Two counts and their ratio."""
    return f"{part}/{whole} {100 * part / whole:4.0f}%" if whole else "-"


def judge(title: str, planted: Planted) -> None:
    """Score, filter with every recipe, and print the table."""
    started = time.monotonic()
    run = vlitqc.score(planted.path, report=False)
    n = Counter([*planted.kinds.values(), *planted.lines.values()])
    found = {recipe: outcome(run, recipe, planted) for recipe in CATCHES}
    records = len(run.table(["row"]))
    print(
        f"\n{title}: {records} records, {n.total()} planted, scored in {time.monotonic() - started:.0f} s\n"
    )

    def line(name: str, cells: Iterable[str]) -> None:
        print(f"{name:24}" + "".join(f"{cell:>16}" for cell in cells))

    line("", CATCHES)
    line("removed", (str(of.removed) for of in found.values()))
    line("precision", (share(of.planted, of.removed) for of in found.values()))
    line("precision, of its own", (share(of.own, of.removed) for of in found.values()))
    wanted = {recipe: sum(n[kind] for kind in kinds) for recipe, kinds in CATCHES.items()}
    line("recall, of its own", (share(of.own, wanted[recipe]) for recipe, of in found.items()))
    print("recall by kind (* = meant to be caught)")
    for kind, planted_of_it in n.items():
        marks = {recipe: "*" if kind in kinds else " " for recipe, kinds in CATCHES.items()}
        line(
            f"  {kind}",
            (share(of.found[kind], planted_of_it) + marks[recipe] for recipe, of in found.items()),
        )
    others: dict[str, list[str]] = defaultdict(list)
    for recipe, of in found.items():
        for name, why in of.others:
            others[f"{name}: {why}"].append(recipe)
    told = f"; the first {FIRST}, for a person to judge" if len(others) > FIRST else ", for a person to judge"
    print(f"removed and not planted: {len(others)}{told if others else ''}")
    for reason, recipes in list(others.items())[:FIRST]:
        print(f"  {reason} ({', '.join(recipes)})"[:110])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Precision and recall of the recipes against planted defects."
    )
    parser.add_argument("--data", type=Path, help="folder with joined/ and llava_pretrain_2k/")
    data: Path | None = parser.parse_args().data
    with tempfile.TemporaryDirectory() as folder:
        judge("demo", demo(Path(folder) / "demo"))
        if data is not None:
            judge("photos", plant(data, Path(folder) / "photos"))


if __name__ == "__main__":
    main()
