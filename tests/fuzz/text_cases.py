"""Cases of the fuzzer of formats, each made from its number alone; run as a program, it checks a range of them.

A case is a few records of any dialect with junk among them, written in one of the formats, wrapped in a layer or
none, and damaged byte by byte. Reading it must keep every promise of ``vlitqc.formats.Reader``.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import pickle
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlitqc.errors import VlitqcError
from vlitqc.formats import Reader, open_input
from vlitqc.formats.streams import Content
from vlitqc.types import Record, Unreadable

MEMORY = 6 << 30
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
TEXTS = (
    "", " ", "What is this?", "A dog.", "<image>\nWhat?", "<ImageHere>", "<img>a.png</img>", "<video>", "<audio>", "…",
    "\ufeff", "\u202e", "\x00", "\x1b[31m", "\ud800", "\udc00\ud83d", "😀", "é" * 5, 'a "quote"', "a\nb\r\nc\rd",
    "a,b;c\td", "\u2028\u2029\x85\x0b\x0c", "{}", "[", "]", '"', "\\", "\\u0000", "NaN", "../../etc/passwd",
    "=1+1", "x" * 3000, "data:image/png;base64,AAAA", "data:image/png;base64,@", "http://h/a.png", "a.png", "0",
)  # fmt: skip
ROLES = ("human", "gpt", "user", "assistant", "system", "bot", "tool", "nobody", "", "USER ")
KEYS = (
    "id",
    "image",
    "images",
    "video",
    "conversations",
    "messages",
    "text",
    "output",
    "history",
    "url",
    "bytes",
    "x",
)
INTERESTING = (
    b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b'"',
    b"\\", b"\n", b"\r", b"\r\n", b",", b":", b"//", b"\\u", b"\\ud800", b"null", b"NaN", b"-", b"1e999", b"9" * 400,
    b"[" * 3000, b'{"a":' * 2000, b"}\n{", b"}{", b'"a"', b"\t", b"''", b"\xe2\x80\xa8", b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd", b"PAR1", b"ustar", b"\0" * 512, b"version https://git-lfs.github.com/spec/v1\n",
)  # fmt: skip


class Wrong(AssertionError):
    """A promise that was not kept."""


def expect(holds: bool, promise: str, *found: object) -> None:
    if not holds:
        raise Wrong(f"{promise}: {', '.join(repr(x)[:300] for x in found)}")


# ---------------------------------------------------------------- records


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Any value that JSON has."""
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind < 3:
        return rng.choice(TEXTS)
    if kind < 7:
        return rng.choice(
            (None, True, False, 0, -1, 7, 2**63, -(10**30), 0.5, 1e308, float("nan"), float("inf"))
        )
    if kind == 7:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): junk(rng, depth + 1) for _ in range(rng.randrange(4))}


def text(rng: random.Random) -> str:
    return "".join(rng.choice(TEXTS) for _ in range(rng.randrange(1, 3)))


def llava(rng: random.Random) -> dict[str, Any]:
    turns = [{"from": rng.choice(ROLES[:4]), "value": text(rng)} for _ in range(rng.randrange(5))]
    return {
        "id": rng.randrange(3),
        "image": rng.choice(["a.png", ["a.png", "b.png"], "", None]),
        "conversations": turns,
    }


def openai(rng: random.Random) -> dict[str, Any]:
    def content() -> Any:
        parts = [
            {"type": "text", "text": text(rng)},
            {"type": "image_url", "image_url": {"url": rng.choice(TEXTS)}},
            {"type": "image"},
            {"type": "video", "video": "a.mp4"},
            {"type": rng.choice(TEXTS)},
        ]
        return rng.sample(parts, rng.randrange(3)) if rng.random() < 0.5 else text(rng)

    return {"messages": [{"role": rng.choice(ROLES), "content": content()} for _ in range(rng.randrange(5))]}


def alpaca(rng: random.Random) -> dict[str, Any]:
    past = [[text(rng), text(rng)] for _ in range(rng.randrange(3))]
    return {"instruction": text(rng), "input": text(rng), "output": text(rng), "history": past}


def caption(rng: random.Random) -> dict[str, Any]:
    return {"image": rng.choice(["a.png", "a b.jpg", "http://h/a.png"]), "caption": text(rng)}


def embedded(rng: random.Random) -> dict[str, Any]:
    held = base64.b64encode(PIXEL).decode()
    return {"image_base64_str": [held], "instruction": text(rng), "inputs": text(rng), "outputs": text(rng)}


def cauldron(rng: random.Random) -> dict[str, Any]:
    pairs = [{"user": text(rng), "assistant": text(rng), "source": "s"} for _ in range(rng.randrange(3))]
    return {"images": [{"bytes": base64.b64encode(PIXEL).decode(), "path": "a.gif"}], "texts": pairs}


DIALECTS: Sequence[Callable[[random.Random], dict[str, Any]]] = (
    llava,
    openai,
    alpaca,
    caption,
    embedded,
    cauldron,
)


def record(rng: random.Random, dialect: Callable[[random.Random], dict[str, Any]]) -> Any:
    """One of a dialect, in which a value or all of it may be junk."""
    made: Any = dialect(rng)
    chance = rng.random()
    if chance < 0.1:
        return junk(rng)
    if chance < 0.4:
        made[rng.choice([*made, *KEYS])] = junk(rng)
    return made


# ---------------------------------------------------------------- formats


def _dumped(value: Any, rng: random.Random, **options: Any) -> bytes:
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, **options).encode("utf-8", "surrogatepass")


def as_lines(rng: random.Random, records: list[Any]) -> bytes:
    end = rng.choice((b"\n", b"\n", b"\r\n", b"\n\n"))
    return end.join(_dumped(r, rng) for r in records) + rng.choice((b"", end))


def as_list(rng: random.Random, records: list[Any]) -> bytes:
    return _dumped(records, rng, indent=rng.choice((None, None, 2)))


def as_document(rng: random.Random, records: list[Any]) -> bytes:
    if rng.random() < 0.3:
        told = {str(i): r for i, r in enumerate(records)}
        return _dumped({"meta": junk(rng), "data": told}, rng)
    key = rng.choice(("data", "annotations", "records", "images"))
    return _dumped({"info": junk(rng), key: records}, rng, indent=rng.choice((None, 1)))


def _flat(records: list[Any]) -> list[dict[str, str]]:
    rows = [r if isinstance(r, dict) else {"text": r} for r in records]
    plain = [
        {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in row.items() if v is not None}
        for row in rows
    ]
    return [{k: v.encode("utf-8", "replace").decode() for k, v in row.items()} for row in plain]


def as_table(rng: random.Random, records: list[Any], delimiter: str) -> bytes:
    rows = _flat(records)
    names = list(dict.fromkeys(k for row in rows for k in row)) or ["image", "caption"]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out, names, delimiter=delimiter, lineterminator=rng.choice(("\n", "\r\n")), quoting=rng.choice((0, 1))
    )
    if rng.random() < 0.85:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _arrow(records: list[Any]) -> pa.Table:
    try:
        return pa.Table.from_pylist([r if isinstance(r, dict) else {"text": r} for r in records])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.Table.from_pylist(_flat(records))


def as_parquet(rng: random.Random, records: list[Any]) -> bytes:
    size, out = rng.choice((1, 2, 100)), io.BytesIO()
    try:
        pq.write_table(_arrow(records), out, row_group_size=size)
    except pa.ArrowNotImplementedError:  # an object without keys
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(_flat(records)), out, row_group_size=size)
    return out.getvalue()


def as_arrow(rng: random.Random, records: list[Any]) -> bytes:
    table, out = _arrow(records), io.BytesIO()
    write = pa.ipc.new_stream if rng.random() < 0.5 else pa.ipc.new_file
    with write(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.choice((1, 100)))
    return out.getvalue()


def as_tar(rng: random.Random, records: list[Any]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as tar:
        for i, made in enumerate(records):
            stem = rng.choice((f"{i:05d}", f"a/b.c/{i}", f"../{i}", f"/etc/{i}", "same", "é" * 60 + str(i)))
            members = [
                (f"{stem}.gif", PIXEL),
                (f"{stem}.json", _dumped(made, rng)),
                (f"{stem}.txt", text(rng)),
            ]
            for name, body in members:
                if rng.random() < 0.85:
                    data = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
                    told = tarfile.TarInfo(name)
                    told.size = len(data)
                    told.type = rng.choice(
                        (tarfile.REGTYPE,) * 20 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE)
                    )
                    told.linkname = "/etc/passwd" if told.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
                    tar.addfile(told, io.BytesIO(data))
    return out.getvalue()


FORMS: dict[str, Callable[[random.Random, list[Any]], bytes]] = {
    "jsonl": as_lines,
    "json": as_list,
    "document": as_document,
    "csv": lambda rng, records: as_table(rng, records, ","),
    "tsv": lambda rng, records: as_table(rng, records, "\t"),
    "parquet": as_parquet,
    "arrow": as_arrow,
    "tar": as_tar,
}
BINARY = ("parquet", "arrow", "tar")
BY_BYTES = ("jsonl", "json", "json_document", "csv", "tsv", "webdataset")
BY_VALUE = ("parquet", "arrow")
LOST = "damaged_table"
WEIGHTS = (4, 4, 2, 2, 2, 2, 1, 2)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A flip, insertion, deletion, duplication, cut or splice."""
    at, other = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    first, last = min(at, other), max(at, other)
    near = min(len(data), first + rng.choice((1, 2, 8, 64)))
    kind = rng.randrange(7)
    if kind == 0 and data:
        place = at % len(data)
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind in (1, 2):
        return data[:at] + rng.choice(INTERESTING) + data[at:]
    if kind == 3:
        return data[:first] + data[near:]
    if kind == 4:
        return data[:at] + data[first:near] + data[at:]
    if kind == 5:
        return data[:last] if rng.random() < 0.5 else data[:near]
    return data[:first] + data[last:]


LAYERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": lambda data: gzip.compress(data, 1),
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data: b"\xff\xfe" + data.decode("utf-8", "replace").encode("utf-16-le"),
    "utf-16-be": lambda data: data.decode("utf-8", "replace").encode("utf-16-be"),
}


def content(rng: random.Random, form: str) -> bytes:
    dialect = rng.choice(DIALECTS)
    records = [
        record(rng, dialect if rng.random() < 0.9 else rng.choice(DIALECTS)) for _ in range(rng.randrange(8))
    ]
    data = FORMS[form](rng, records)
    layer = rng.choice(
        ("", "", "", "gz", "zst", *(("bom", "utf-16", "utf-16-be") if form not in BINARY else ()))
    )
    for _ in range(rng.choice((0, 0, 1, 2, 5))):
        data = mutated(rng, data)
    data = LAYERS[layer](data)
    for _ in range(rng.choice((0, 0, 0, 1)) if layer else 0):
        data = mutated(rng, data)
    return data


def write_case(seed: int, folder: Path) -> Path:
    """Write the case of this number below ``folder``; returns what is to be opened: mostly a file."""
    rng = random.Random(seed)
    (form,) = rng.choices(list(FORMS), WEIGHTS)
    if rng.random() < 0.1:
        place = folder / "shards"
        place.mkdir()
        for i in range(rng.randrange(1, 4)):
            ending = rng.choice(list(FORMS))
            (place / f"part-{i}.{ending}").write_bytes(content(rng, form if rng.random() < 0.8 else ending))
        return place
    path = folder / f"data.{form if rng.random() < 0.9 else rng.choice(list(FORMS))}"
    path.write_bytes(content(rng, form))
    return path


# ---------------------------------------------------------------- promises


def check(path: Path, seed: int, folder: Path) -> str:
    """Read, read again and divide; returns what came of it. Raises Wrong, or whatever reading raised."""
    try:
        reader = open_input(path)
    except VlitqcError as error:
        return f"refused ({type(error).__name__})"
    found = list(reader.records())
    rows = [r.origin.row for r in found]
    expect(rows == list(range(len(found))), "rows number the records from 0", rows)
    later = [r.origin.row for r in reader.records(7)]
    expect(later == [row + 7 for row in rows], "rows number the records from first_row", later)
    _check_places(reader, found)
    travelled: Reader = pickle.loads(pickle.dumps(reader))
    # A damaged header of a table may promise any number of rows.
    for r in found[:: 1 + len(found) // 100]:
        for again in (reader.record(r.origin), travelled.record(r.origin)):
            # What stands around a record is known only where all is read, such as that the file is cut within it.
            same = [repr(replace(x, issues=())) for x in (again, r)]
            kept = again.origin == r.origin if isinstance(r, Unreadable) else same[0] == same[1]
            expect(kept, "a record read again is the same", *same)
        share = reader.share(r.origin)
        expect(share is None or 0 <= share <= 1, "a share lies from 0 to 1", share)
    _check_division(reader, found, seed, folder)
    n_unreadable = sum(isinstance(r, Unreadable) for r in found)
    told = "all" if not n_unreadable else "none" if n_unreadable == len(found) else "some"
    return f"{reader.name}: {told if found else 'no'} records read"


def _check_places(reader: Reader, found: list[Record]) -> None:
    files = {str(path) for path in reader.files}
    for r in found:
        o = r.origin
        expect(0 <= o.start <= o.end, "a record starts before it ends", o)
        expect(o.file in files, "a record's file is one of the reader's", o, files)
        # A row that a damaged table has lost has no bytes to be hashed.
        lost = not o.sha256 and isinstance(r, Unreadable)
        expect((lost or len(o.sha256) == 64) and o.line >= 0, "an origin is filled in", o)
        expect(
            all(i.file == o.file and i.row == o.row for i in r.issues), "issues are at their record", r.issues
        )
        expect(not isinstance(r, Unreadable) or bool(r.issues), "what is unreadable says why", r)
    for one, other in pairwise(found):
        same = one.origin.file == other.origin.file
        expect(
            not same or one.origin.end <= other.origin.start,
            "records do not overlap",
            one.origin,
            other.origin,
        )
        expect(not same or one.origin.line <= other.origin.line, "lines rise", one.origin, other.origin)
    for r in found[-1:]:
        if reader.name in BY_BYTES:
            with Content(Path(r.origin.file)).open() as stream:
                size = len(stream.read())
            begun = Content(Path(r.origin.file)).start
            expect(r.origin.end <= size + begun, "a record ends within its file", r.origin, size)


def _check_division(reader: Reader, found: list[Record], seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    goes = [rng.choice(("kept", "dropped")) for _ in found]
    targets = {name: folder / f"{name}{reader.suffix}" for name in ("kept", "dropped")}
    reader.divide(zip((r.origin for r in found), goes, strict=True), targets)
    for name, target in targets.items():
        expect(target.exists(), "every target is written", target)
        sent = [r for r, to in zip(found, goes, strict=True) if to == name]
        if reader.name in BY_BYTES:
            _check_bytes(reader, sent, target)
        elif sent and reader.name in BY_VALUE:
            again = list(type(reader)(target, reader.names).records())  # type: ignore[call-arg]
            before, after = [[r.origin.sha256 for r in part] for part in (_whole(sent), _whole(again))]
            expect(before == after, "what was written reads the same", name, before, after, sent, again)
    parts = [p for p in folder.iterdir() if p.name.startswith(".")]
    expect(not parts, "no draft is left", parts)


def _is_utf16(path: Path) -> bool:
    """Whether an output is known for UTF-16; one that begins with odd characters may not be, marked or not."""
    try:
        return "utf-16" in Content(path).layers
    except VlitqcError:
        return False


def _check_bytes(reader: Reader, sent: list[Record], target: Path) -> None:
    whole, copy = reader.path.read_bytes(), target.read_bytes()
    if reader.layers:
        if "utf-16" in reader.layers and not _is_utf16(target):
            return
        with Content(reader.path).open() as stream, Content(target).open() as written:
            stream.seek(0)
            written.seek(0)
            whole, copy = stream.read(), written.read()
    at = 0
    for r in sent:
        raw = whole[r.origin.start : r.origin.end]
        found = copy.find(raw, at)
        expect(found >= 0, "records keep their bytes", r.origin, raw, copy)
        at = found + len(raw)


def _whole(records: list[Record]) -> list[Record]:
    """Those that are not lost: of what a table promised and does not hold, nothing can be written."""
    return [r for r in records if not any(i.kind == LOST for i in r.issues)]


def run(seed: int) -> str:
    """The outcome of one case. Raises Wrong, or whatever reading raised."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_case(seed, folder)
        return check(path, seed, folder)


def main(first: int, last: int) -> None:
    """Check the cases from ``first`` to before ``last``: a line of JSON before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for seed in range(first, last):
        print(json.dumps({"seed": seed}), flush=True)
        started = time.perf_counter()
        try:
            told = {"outcome": run(seed)}
        except Exception:  # noqa: BLE001 - whatever it is, it is a defect
            told = {"defect": traceback.format_exc()[-3000:]}
        print(json.dumps({"seed": seed, "seconds": time.perf_counter() - started, **told}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
