"""Does the matching degree tell true captions from those of other pictures? One row a set.

The AUC is the share of (true, shuffled) caption-picture pairs that a score orders rightly, over all captions
of a picture and all other pictures of the set. Nothing is fitted to these data: the model's means come from
its labels and reference captions.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from vlitqc import profiles
from vlitqc.models.conse import LABELS, ConSE, label_sentence, read_lines
from vlitqc.models.efficientnet_lite import EfficientNetLite, posterior
from vlitqc.models.sentence_transformers import SentenceEncoder
from vlitqc.models.store import ModelStore
from vlitqc.types import FloatArray, Rgb
from vlitqc_metrics.matching_percentile import matching_percentiles

Pairs = list[tuple[Path, list[str]]]

FLICKR_REQUIRED = 0.83
_TEMPERATURE = 2.0


def _joined(name: str) -> Callable[[Path], Pairs]:
    def read(data: Path) -> Pairs:
        with (data / "joined" / name).open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        return [(data / record["image"], record["captions"]) for record in records]

    return read


def _llava(data: Path) -> Pairs:
    root = data / "llava_pretrain_2k"
    file = next(path for path in sorted(root.rglob("*.json")))
    found = []
    for record in json.loads(file.read_text(encoding="utf-8")):
        path = next(iter(file.parent.rglob(record["image"])), None)
        if path is not None:
            answers = [turn["value"] for turn in record["conversations"] if turn["from"] == "gpt"]
            found.append((path, answers))
    return found


SETS: dict[str, tuple[str, Callable[[Path], Pairs], float | None]] = {
    "Flickr8k photos": ("joined/flickr8k_photos.jsonl", _joined("flickr8k_photos.jsonl"), FLICKR_REQUIRED),
    "COCO photos": ("joined/coco_photos.jsonl", _joined("coco_photos.jsonl"), None),
    "LLaVA-Pretrain": ("llava_pretrain_2k", _llava, None),
}


def auc(true: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Share of pairs (one of each) in which the true one is higher; ties count half."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, true, side="left")
    upto = np.searchsorted(ordered, true, side="right")
    return float((below + upto).mean() / 2 / len(ordered))


def split(scores: NDArray[np.float64], picture: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores of captions (rows) with their own picture (column) and with all others."""
    own = np.zeros(scores.shape, dtype=bool)
    own[np.arange(len(picture)), picture] = True
    return scores[own], scores[~own]


def percentile_scores(pictures: FloatArray, texts: FloatArray, *, n_others: int = 200) -> NDArray[np.float64]:
    """``float64[texts, pictures]``: the matching percentile of each picture, were it the text's own."""
    every = np.arange(len(pictures), dtype=np.int64)
    columns = [
        matching_percentiles(
            texts,
            np.arange(len(texts), dtype=np.int64),
            pictures,
            every,
            [np.array([j], dtype=np.int64)] * len(texts),
            n_others=n_others,
            seed=j,
        )
        for j in range(len(pictures))
    ]
    return np.stack(columns, axis=1)


def matching_table(data: Path) -> list[dict[str, Any]]:
    """AUC of the raw cosine, the matching degree and the matching percentile on each set under ``data``.

    The raw cosine is ConSE without centring. Sets that are absent have a row that says so; without any of
    them it is FileNotFoundError.
    """
    needed_of = {name: data / needed for name, (needed, *_) in SETS.items()}
    present = {name for name, path in needed_of.items() if path.exists()}
    if not present:
        raise FileNotFoundError(errno.ENOENT, "no set is there", str(next(iter(needed_of.values()))))
    store = ModelStore(profiles.load("lite"), device="cpu")
    network: EfficientNetLite = store.get("efficientnet")
    encoder: SentenceEncoder = store.get("minilm")
    model: ConSE = store.get("conse")
    labels = encoder.encode_texts([label_sentence(name) for name in read_lines(LABELS)])
    rows: list[dict[str, Any]] = []
    for name, (_, read, required) in SETS.items():
        if name not in present:
            rows.append({"set": f"{name} (absent)", "n": 0})
            continue
        pairs = read(data)
        outputs = network.forward([_open(path) for path, _ in pairs])
        texts = [caption for _, captions in pairs for caption in captions]
        picture = np.repeat(np.arange(len(pairs)), [len(captions) for _, captions in pairs])
        mixed = posterior(outputs.logits, _TEMPERATURE) @ labels
        raw = encoder.encode_texts(texts) @ (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).T
        pictures, vectors = model.encode_forward(outputs), model.encode_texts(texts)
        degree = auc(*split((vectors @ pictures.T).astype(np.float64), picture))
        rows.append(
            {
                "set": name,
                "n": len(pairs),
                "auc raw cosine": auc(*split(raw.astype(np.float64), picture)),
                "auc matching_degree": degree,
                "auc matching_percentile": auc(*split(percentile_scores(pictures, vectors), picture)),
                "required": required,
            }
        )
    return rows


def _open(path: Path) -> Rgb:
    with Pillow.open(path) as image:
        return np.asarray(image.convert("RGB"))
