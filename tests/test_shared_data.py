"""Every folder of real data that nobody in this project wrote: read, counted, divided, and compared with what other
readers find in the same files (json, csv, tarfile, pyarrow). A table of it ends the test run.
"""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vlitqc.errors import FormatError
from vlitqc.formats import Reader, open_input
from vlitqc.formats.collection import Collection
from vlitqc.formats.names import Names
from vlitqc.media import MediaLoader
from vlitqc.types import Media, Record, Unreadable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir()) if DATA.is_dir() else []

csv.field_size_limit(1 << 24)

pytestmark = pytest.mark.skipif(not FOLDERS, reason=f"no real data in {DATA}")

PICTURES = frozenset(
    (".apng", ".avif", ".bmp", ".gif", ".ico", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")
)
TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
HEADLESS = ("flickr8k.DevImages.txt", "ofa_caption.tsv")
BELONGING = ("LA.json",)
"""Files of pictures of a MIMIC-IT pair, which are no records."""


@dataclass(frozen=True)
class Case:
    """An input, its format, and what is expected of its records.

    ``keys``: of a file that is one JSON object, the key that holds the records. ``lost``: files of which not one
    record can be had; ``aside``: files without a conversation, left aside with a note. ``pictures``: how many lie
    below the folder, where it is they that the folder is for, and how many of them cannot be opened.
    """

    format: str
    samples: int
    unreadable: int = 0
    input: str = ""
    names: Names = field(default_factory=Names)
    keys: dict[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    pictures: tuple[int, int] | None = None


CASES: dict[str, list[Case]] = {
    "broken_lfs_pointers": [Case("folder", 0, 1, lost=("vision_train_1.jsonl",))],
    "cc3m_llava34b_cap": [Case("folder", 200, keys={"progress_6_or_24.json": "annotations"})],
    "cleanvision_issues": [Case("", 0, pictures=(4, 0))],
    "clip_retrieval_tests": [Case("folder", 0, 6)],
    "coco_captions_val2017": [Case("folder", 215, keys={"captions_val2017_dev.json": "annotations"})],
    "coco_mini": [
        Case("folder", 0, 2, lost=("instances_train2017_dev.json", "instances_val2017_dev.json"), pictures=(48, 0))
    ],
    "coco_tiny": [
        Case("folder", 0, 2, lost=("instances_train2017_dev.json", "instances_val2017_dev.json"), pictures=(13, 0))
    ],
    "data_juicer": [
        Case("folder", 13, 18, aside=("demo-dataset.csv", "demo-dataset.tsv")),
        Case("csv", 6, input="tests/format/data/structured/demo-dataset.csv", names=Names({"response": "text"})),
        Case("tsv", 6, input="tests/format/data/structured/demo-dataset.tsv", names=Names({"response": "text"})),
    ],
    "derived_formats": [
        Case("folder", 62, keys={"LA_instructions.json": "data"}),
        Case("webdataset", 10, input="dev/wds-000000.tar"),
        Case("mimic_it", 10, input="dev/LA_instructions.json", keys={"LA_instructions.json": "data"}),
        Case("parquet", 10, input="dev/cauldron_style-00000-of-00001.parquet"),
    ],
    "easy_vqa": [
        Case(
            "json", 573, input="easy_vqa/data/test/questions_dev.json",
            names=Names({"instruction": "0", "response": "1"}), pictures=(60, 0),
        )
    ],
    "fastchat": [Case("folder", 500)],
    "flickr8k_itm": [Case("tsv", 600, input="flickr8k.DevImages.txt", pictures=(250, 0))],
    "imagefolder_gif_webp": [Case("imagefolder", 4, names=Names({"caption": "notes"}))],
    "img2dataset_tests": [Case("folder", 1000, 2)],
    "internvl_captions": [Case("folder", 1053)],
    "internvl_examples": [Case("", 0, pictures=(2, 0))],
    "iqa_pytorch_calibra": [Case("folder", 0, 1, lost=("results_official.csv",), pictures=(2, 0))],
    "joined": [Case("folder", 310)],
    "llama_factory": [
        Case("folder", 1705),
        Case("llama_factory", 1705, input="data"),
        Case("jsonl", 24, input="data/v1_multimodal_demo.jsonl"),
    ],
    "llama_factory_forks": [Case("folder", 62)],
    "llava_pretrain_2k": [Case("folder", 160)],
    "llava_repo": [Case("folder", 90)],
    "mantis_examples": [Case("folder", 31)],
    "md_iqa_src31": [Case("imagefolder", 8, pictures=(8, 0))],
    "minigpt4_captions": [Case("folder", 439, keys={"filter_cap.json": "annotations"})],
    "ms_swift": [Case("folder", 18)],
    "pillow_broken": [Case("folder", 0, 1, lost=("EXPECTED_pillow.tsv",), pictures=(42, 0))],
    "qwen3vl_cms1500": [Case("folder", 4)],
    "qwen_vl_finetune": [Case("folder", 18)],
    "savoias": [
        Case("csv", 48, input="complexity.csv", names=Names({"response": "complexity"}), pictures=(48, 0))
    ],
    "sharegpt_v3": [Case("folder", 290, 4)],
    "visualglm": [Case("folder", 3)],
    "webdataset_tars": [Case("folder", 0, 93)],
    "xcomposer_finetune": [Case("folder", 4)],
}  # fmt: skip

RUNS = [(name, case) for name in FOLDERS for case in CASES.get(name, ())]


def _id(value: Any) -> str:
    return value if isinstance(value, str) else Path(value.input).name or "folder"


def test_every_folder_is_read() -> None:
    assert set(FOLDERS) - CASES.keys() == set()


@pytest.mark.parametrize(("name", "case"), RUNS, ids=_id)
def test_folder(name: str, case: Case, tmp_path: Path, folder_read: Callable[..., None]) -> None:
    """The folder's records agree with those that another reader finds, and come back as they were."""
    root = DATA / name
    media = _media(root, case) if case.pictures is not None else ""
    if not case.format:
        with pytest.raises(FormatError, match="pictures and no file of records"):
            open_input(root)
        folder_read(name, "pictures", "none", "–", "–", "–", media)
        return
    path = _input(root, case)
    reader = open_input(path, names=case.names)
    records = list(reader.records())
    bad = [record for record in records if isinstance(record, Unreadable)]
    issues = Counter(issue.kind for record in records for issue in record.issues)
    if all(file.suffix in PICTURES for file in reader.files):
        expected = _captions(reader)
    else:
        no_records = (*BELONGING, *case.aside)
        expected = {f: _elements(f, case, f) for f in reader.files if f.name not in no_records}
    written = _written_back(reader, records, expected, case, tmp_path)
    told = ", ".join(f"{kind} {n}" for kind, n in sorted(issues.items())) or "none"
    back = f"{written} of {len(records)}" + (f"; {media}" if media else "")
    shown = case.input.rpartition("/")[2] or "the folder"
    folder_read(name, shown, reader.name, len(records), len(bad), told, back)
    assert reader.name == case.format
    if case.aside:
        assert isinstance(reader, Collection)
        assert all(name in note for name, note in zip(case.aside, reader.notes, strict=True))
    assert len(records) == sum(map(len, expected.values())), {f.name: len(e) for f, e in expected.items()}
    assert (len(records) - len(bad), len(bad)) == (case.samples, case.unreadable)
    assert written == len(records)
    for record in (*records[:: max(1, len(records) // 20)], *bad):
        again = reader.record(record.origin)
        assert again == record or (isinstance(record, Unreadable) and _kinds(again) == _kinds(record))


def _kinds(record: Record) -> tuple[object, ...]:
    """A record but for the words of its issues: a cut one, read by itself, is not known to be the last."""
    return type(record), record.origin, [issue.kind for issue in record.issues]


def _input(root: Path, case: Case) -> Path:
    return next(root.rglob(case.input.rpartition("/")[2])) if case.input else root


def _media(root: Path, case: Case) -> str:
    """Every picture of a folder through the loader: how many it opens, and how many it cannot and says why."""
    assert case.pictures is not None
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in PICTURES)
    loader = MediaLoader(root, longest_side=64)
    images = [loader.load(Media("image", str(file.relative_to(root)))) for file in files]
    assert all((image.pixels is None) == bool(image.fault) for image in images)
    faults = sum(image.pixels is None for image in images)
    assert len(files) == case.pictures[0]
    if root.name != "pillow_broken":  # whose faults have a test of their own, file by file
        assert faults == case.pictures[1], [image.fault for image in images if image.fault]
    return f"{len(files)} pictures, {faults} with a fault"


# ---------------------------------------------------------------- other readers of the same files


def _elements(place: Path, case: Case, file: Path) -> list[Any]:
    """The records of ``place``, an output of ``file`` or itself, by another reader: texts of JSON, rows, members."""
    if file.name in case.lost:
        return [place.read_bytes()]
    kind = file.suffix.lower()
    if kind == ".parquet":
        return list(pq.read_table(place).to_pylist())
    if kind in (".tar", ".tgz"):
        return _members(place)
    if kind in TABLES:
        with place.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream, delimiter=TABLES[kind]))
        return rows if file.name in HEADLESS else rows[1:]
    text = place.read_text(encoding="utf-8-sig")
    if file.name in case.keys:
        held = json.loads(text)[case.keys[file.name]]
        return list(held.items() if isinstance(held, dict) else held)
    return _texts(text)


def _texts(text: str) -> list[str]:
    """The text of each JSON value of a list, or one after another; what follows the last whole one is one more."""
    decoder = json.JSONDecoder()
    gap = re.compile(r"[\s,]*\[?" if text.lstrip().startswith("[") else r"[\s,]*")
    found: list[str] = []
    at = 0
    while True:
        at = gap.match(text, at).end()  # type: ignore[union-attr]
        gap = re.compile(r"[\s,]*")
        at = gap.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] in ("", "]"):
            return found
        try:
            end = decoder.raw_decode(text, at)[1]
        except ValueError:
            # Cut off in its middle; where it was written back into a list, the list's end follows.
            return [*found, text[at:].rstrip().removesuffix("]")]
        found.append(text[at:end])
        at = end


def _members(file: Path) -> list[tuple[tuple[str, bytes], ...]]:
    """The files of an archive, those of one sample together: the same name up to the first dot."""
    with tarfile.open(file) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive if m.isfile()]  # type: ignore[union-attr]
    return [tuple(group) for _, group in groupby(members, key=lambda m: re.sub(r"\.[^/]*$", "", m[0]))]


def _frame(place: Path, case: Case, file: Path) -> Any:
    """What stands around the records."""
    kind = file.suffix.lower()
    if kind == ".parquet":
        schema = pq.read_schema(place)
        return schema, schema.metadata
    if kind in TABLES and file.name not in HEADLESS:
        return place.read_bytes().splitlines()[0]
    if file.name in case.keys:
        value = json.loads(place.read_text(encoding="utf-8-sig"))
        return {key: held for key, held in value.items() if key != case.keys[file.name]}
    return None


def _captions(reader: Reader) -> dict[Path, list[Any]]:
    """What an image folder of classes is written as."""
    names = [file.relative_to(reader.path) for file in reader.files]
    lines = [json.dumps({"file_name": name.as_posix(), "text": name.parent.name}) for name in names]
    return {reader.path / "metadata.jsonl": lines}


# ---------------------------------------------------------------- writing back


def _fate(row: int) -> str:
    return "dropped" if row % 3 == 1 else "kept"


def _written_back(
    reader: Reader, records: Iterable[Record], expected: dict[Path, list[Any]], case: Case, out: Path
) -> int:
    """How many records another reader finds in the outputs, in their order and place, as they were."""
    targets = {name: out / f"{name}{reader.suffix}" for name in ("kept", "dropped")}
    reader.divide([(r.origin, _fate(r.origin.row)) for r in records], targets)
    row = identical = 0
    wanted = set()
    for file, elements in expected.items():
        for name, target in targets.items():
            mine = [element for n, element in enumerate(elements, row) if _fate(n) == name]
            place = target / file.relative_to(reader.path) if target.is_dir() else target
            if not mine and not place.exists():
                continue
            wanted.add(place)
            identical += sum(a == b for a, b in zip(mine, _elements(place, case, file), strict=True))
            if file.exists() and file.name not in case.lost:
                assert _frame(place, case, file) == _frame(file, case, file)
        row += len(elements)
    listed = {p for t in targets.values() for p in (t.rglob("*") if t.is_dir() else [t]) if p.is_file()}
    assert {place for place in listed if place.name != "dataset_info.json"} == wanted
    return identical
