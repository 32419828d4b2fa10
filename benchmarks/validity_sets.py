"""The public sets on which metrics are validated, as LLaVA records: a picture, questions, captions of people.

``demo`` is the data of ``examples/make_demo_data.py`` without what was planted in it; the others are read below the
folder of public data, where they may be absent. Clusters of pictures and of responses need more of them than one set
has, so ``photos`` has those of all three, with five captions where there are as many, and is for the metrics that count
clusters alone.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = (
    "Write a short caption for this image.",
    "Provide a one-sentence caption for the provided image.",
    "Give a brief description of the image.",
    "Summarize the visual content of the image.",
    "Describe the image concisely.",
)


@dataclass(frozen=True)
class Source:
    """A data file, and the folder that its pictures' paths start from.

    ``metrics`` and ``corruptions`` are None for all; ``records`` is None for as many as are asked for; ``lm`` names a
    causal language model beside the profile.
    """

    file: Path
    image_root: Path
    metrics: tuple[str, ...] | None = None
    corruptions: tuple[str, ...] | None = None
    records: int | None = None
    lm: str | None = None


def demo(_: Path, home: Path) -> Source:
    """The demo data without the planted records, of which some only look like faults."""
    maker = _example("make_demo_data")
    _, planted = maker.build(home / "made")
    lines = (home / "made" / "data.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    spoilt = {entry["line"] for entry in planted}
    file = home / "demo.jsonl"
    clean = [line for number, line in enumerate(lines, 1) if number not in spoilt and line.strip()]
    file.write_text("".join(clean), encoding="utf-8")
    return Source(file, home / "made")


def photos(name: str) -> Callable[[Path, Path], Source]:
    """Photographs with the first of their captions, below ``joined/``; the questions take turns."""

    def made(data: Path, home: Path) -> Source:
        file = home / f"{name}.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for i, record in enumerate(_lines(data / "joined" / f"{name}_photos.jsonl")):
                turns = [
                    {"from": "human", "value": f"<image>\n{QUESTIONS[i % len(QUESTIONS)]}"},
                    {"from": "gpt", "value": record["captions"][0]},
                ]
                record = {"id": f"{name}-{i}", "image": record["image"], "conversations": turns}  # noqa: PLW2901
                out.write(json.dumps(record) + "\n")
        return Source(file, data)

    return made


def llava(data: Path, home: Path) -> Source:
    """Records of LLaVA-Pretrain as they are."""
    folder = data / "llava_pretrain_2k/playground/data/LLaVA-Pretrain"
    file = home / "llava.json"
    file.write_bytes((folder / "blip_laion_cc_sbu_dev.json").read_bytes())
    return Source(file, folder / "images")


def together(data: Path, home: Path) -> Source:
    """The pictures of the three public sets with all their captions, a turn each."""
    folder = "llava_pretrain_2k/playground/data/LLaVA-Pretrain"
    records = [
        (record["image"], record["captions"])
        for name in ("flickr8k", "coco")
        for record in _lines(data / "joined" / f"{name}_photos.jsonl")
    ]
    for record in json.loads((data / folder / "blip_laion_cc_sbu_dev.json").read_text(encoding="utf-8")):
        records.append((f"{folder}/images/{record['image']}", [record["conversations"][1]["value"]]))
    file = home / "photos.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for i, (image, captions) in enumerate(records):
            turns = [
                {"from": speaker, "value": text}
                for question, caption in zip(QUESTIONS, captions, strict=False)
                for speaker, text in (("human", question), ("gpt", caption))
            ]
            turns[0]["value"] = f"<image>\n{turns[0]['value']}"
            out.write(json.dumps({"id": str(i), "image": image, "conversations": turns}) + "\n")
    return Source(
        file,
        data,
        metrics=("response_diversity", "visual_semantic_diversity"),
        corruptions=(
            "duplicated_responses",
            "duplicated_pictures",
            "similar_pictures",
            "duplicated_instructions",
        ),
        records=len(records),
    )


def with_smollm2(source: Callable[[Path, Path], Source]) -> Callable[[Path, Path], Source]:
    """What needs a causal language model, with the small one that lite can take."""

    def made(data: Path, home: Path) -> Source:
        return replace(
            source(data, home),
            metrics=("ifd", "text_readability"),
            corruptions=(
                *("leaked_responses", "swapped_responses", "simplified_instructions"),
                *("shuffled_words", "typos", "truncated_response", "repeated_response"),
            ),
            records=100,
            lm="smollm2",
        )

    return made


SETS: dict[str, Callable[[Path, Path], Source]] = {
    "demo": demo,
    "flickr8k": photos("flickr8k"),
    "coco": photos("coco"),
    "llava": llava,
    "photos": together,
    "demo_smollm2": with_smollm2(demo),
    "llava_smollm2": with_smollm2(llava),
}
"""Name → ``(folder of public data, empty folder) → source``; FileNotFoundError where it is absent."""

TITLES = {
    "demo": "demo data",
    "flickr8k": "Flickr8k dev",
    "coco": "COCO",
    "llava": "LLaVA-Pretrain",
    "photos": "all photos",
    "demo_smollm2": "demo data, SmolLM2",
    "llava_smollm2": "LLaVA-Pretrain, SmolLM2",
}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
