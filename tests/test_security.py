"""Data that attacks: what it names is not opened, what it carries is not run, what it says steers no terminal."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import signal
import socket
import sys
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

import vlitqc
from vlitqc import cli, console
from vlitqc.engine.inspection import inspect
from vlitqc.errors import VlitqcError
from vlitqc.formats import open_input
from vlitqc.media import MediaLoader, issue_kind
from vlitqc.types import Media, Record, Sample

ROOT = Path(__file__).resolve().parents[1]
SECRET = "the-secret-of-this-machine"
TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A picture of it."}]
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.fixture
def outside(tmp_path: Path, picture: Callable[[int], bytes]) -> Path:
    """What lies beside the data and is none of it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.png").write_bytes(picture(1))
    (folder / "secret.jsonl").write_text(json.dumps({"instruction": SECRET, "output": SECRET}) + "\n")
    (folder / "secret.json").write_text(json.dumps([{"instruction": SECRET, "output": SECRET}]))
    return folder


@pytest.fixture
def inside(tmp_path: Path, picture: Callable[[int], bytes]) -> Path:
    """A folder of data with pictures, and with links that lead out of it."""
    folder = tmp_path / "inside"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(2))
    (folder / "a" / "b" / "c.png").write_bytes(picture(3))
    (folder / "out.png").symlink_to("../outside/secret.png")
    (folder / "out").symlink_to("../outside")
    (folder / "deep").symlink_to("a/b")
    return folder


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails where the block waits for ever, as opening a pipe does."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"it hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def state(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and not path.is_symlink()
        else "other"
        for path in sorted(folder.rglob("*"))
    }


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def read(path: Path) -> list[Record]:
    """The records, none of which knows the secret; none where the input is refused."""
    try:
        reader = open_input(path)
    except VlitqcError as error:
        assert SECRET not in str(error)
        return []
    records = list(reader.records())
    assert SECRET not in repr(records)
    return records


# ---------------------------------------------------------------- paths of media

LEAVING = (
    "../outside/secret.png", "a/../../outside/secret.png", "./a/./../../outside/secret.png",
    "a//..//..//outside/secret.png", "out.png", "out/secret.png", "deep/../../../outside/secret.png",
    "a/b/../../out/secret.png",
)  # fmt: skip
NOWHERE = (
    "..\\outside\\secret.png", "a\\..\\..\\outside\\secret.png", "C:\\outside\\secret.png",
    "\\\\host\\share\\secret.png", "%2e%2e/outside/secret.png", "..%2foutside%2fsecret.png",
    "%2e%2e%2foutside%2fsecret.png", "~/secret.png", "~root/secret.png", "$HOME/secret.png",
    "${HOME}/secret.png", "`id`.png", "$(id).png", "|id", "a.png;id", "．．/outside/secret.png",
    "..\u2215outside\u2215secret.png", "a.png\n../outside/secret.png", "a.png\0",
    "../outside/secret.png\0.png", "x" * 300, "x/" * 3000, "", " ", "-rf", "\ud800.png",
)  # fmt: skip
ABSOLUTE = (
    "/etc/passwd", "/proc/self/environ", "/proc/self/fd/0", "/dev/stdin", "/dev/zero", "//etc/passwd",
    "file:///etc/passwd", "file:/etc/passwd", "FILE:///etc/passwd", "file://localhost/etc/passwd",
    "file://../outside/secret.png",
)  # fmt: skip


@pytest.mark.usefixtures("no_socket", "outside")
@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize("reference", [*LEAVING, *NOWHERE, *ABSOLUTE], ids=ascii)
def test_a_path_that_leads_out_or_nowhere(inside: Path, reference: str, kind: Any) -> None:
    loader = MediaLoader(inside, longest_side=64)
    media = Media(kind, reference)
    with within(5):
        found = loader.load(media) if kind == "image" else loader.clip(media)
        assert loader.fingerprint(media)
    assert found.fault is not None
    if reference in LEAVING:
        assert issue_kind(found.fault, kind) == "path_outside_root"
    assert issue_kind(found.fault, kind)


@pytest.mark.usefixtures("no_socket", "outside")
def test_paths_in_records_of_every_dialect(inside: Path, tiny: str) -> None:
    """The same paths, where a record has them: nothing is read, every one is told."""
    odd = [
        r for r in (*LEAVING, *NOWHERE, *ABSOLUTE) if r.strip() and len(r) < 500
    ]  # longer ones may be base64
    records: list[dict[str, Any]] = [{"image": r, "conversations": TURNS} for r in odd]
    records += [{"images": [{"path": r}], "conversations": TURNS} for r in odd]
    records += [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": r}}]}]}
        for r in odd
    ]
    data = lines(inside / "data.jsonl", *records)
    with within(60):
        run = vlitqc.score(data, tiny, image_root=inside)
    told = set(run.issues.query("severity == 'error'")["row"])
    assert told == set(range(len(records)))
    assert not [
        image
        for r in run.reader.records()
        if isinstance(r, Sample)
        for image in run.images(r)
        if image.sha256
    ]


@pytest.mark.parametrize("name", ["pipe", "zero", "null", "socket"])
def test_devices_pipes_and_sockets_are_not_opened(inside: Path, name: str) -> None:
    path = inside / f"{name}.png"
    if name == "pipe":
        os.mkfifo(path)
    elif name == "socket":
        here = Path.cwd()
        os.chdir(inside)  # the path of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        finally:
            os.chdir(here)
    else:
        path.symlink_to(f"/dev/{name}")
    for allow in (False, True):
        loader = MediaLoader(inside, longest_side=64, allow_outside=allow)
        with within(5):
            assert loader.load(Media("image", path.name)).fault
            assert loader.clip(Media("video", path.name)).fault


# ---------------------------------------------------------------- folders of data

SPECIAL = (
    "a.jsonl", "b.json", "c.parquet", "d.arrow", "e.tar", "f.csv", "dataset_info.json", "dataset_dict.json",
    "state.json", "metadata.jsonl", "metadata.csv", "metadata.parquet", "x.decisions.parquet", "good.json",
    "good_instructions.json",
)  # fmt: skip


@pytest.mark.parametrize("device", ["", "/dev/zero", "/dev/null"], ids=["pipe", "zero", "null"])
@pytest.mark.parametrize("name", SPECIAL)
def test_pipes_and_devices_among_the_files(tmp_path: Path, name: str, device: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines(folder / "good.jsonl", {"instruction": "Say a.", "output": "a"})
    if device:
        (folder / name).symlink_to(device)
    else:
        os.mkfifo(folder / name)
    inputs: list[Any] = [
        folder,
        [folder / "good.jsonl", folder / name],
        folder / "good.jsonl",
        folder / "*.json*",
    ]
    for paths in inputs:
        with within(10), contextlib.suppress(VlitqcError):
            records = list(open_input(paths).records())
            assert sum(isinstance(r, Sample) for r in records) <= 1
    with within(10), contextlib.suppress(VlitqcError):
        open_input(folder / name)


@pytest.mark.parametrize("device", ["", "/dev/zero"], ids=["pipe", "zero"])
def test_a_pipe_among_pictures(tmp_path: Path, device: str, picture: Callable[[int], bytes]) -> None:
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.png").write_bytes(picture(i))
    odd = tmp_path / "data" / "dog" / "1.png"
    odd.symlink_to(device) if device else os.mkfifo(odd)
    with within(10):
        found = inspect(tmp_path / "data")
    assert found.readable >= 2


NAMES = (
    "../outside/secret.jsonl", "../outside/secret.json", "{outside}/secret.jsonl", "out/secret.jsonl", "out",
    "../outside", "deep/../../outside/secret.jsonl", "a/../../outside/secret.jsonl", "link.jsonl", "~/secret.jsonl",
    "file://{outside}/secret.jsonl", "..\\outside\\secret.jsonl", "secret.jsonl\0", "deep/../../secret.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("beside", [True, False])
def test_a_catalogue_that_names_files_outside(
    inside: Path, outside: Path, tmp_path: Path, name: str, beside: bool
) -> None:
    """``dataset_info.json``: also where a link makes ``..`` mean one thing to the system and another to the eye."""
    (inside / "link.jsonl").symlink_to(outside / "secret.jsonl")
    (tmp_path / "secret.jsonl").write_bytes((outside / "secret.jsonl").read_bytes())
    lines(inside / "a" / "secret.jsonl", {"instruction": "Say a.", "output": "a"})
    if beside:
        lines(inside / "good.jsonl", {"instruction": "Say a.", "output": "a"})
    entry = {"file_name": name.format(outside=outside)}
    (inside / "dataset_info.json").write_text(json.dumps({"bad": entry, "good": {"file_name": "good.jsonl"}}))
    if name != "link.jsonl":
        (inside / "link.jsonl").unlink()
    # A folder's own links to files are followed, as the Hugging Face cache needs; a catalogue's are not.
    for path in (inside, inside / "dataset_info.json") if beside or name != "link.jsonl" else ():
        read(path)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_saved_data_set_that_names_files_outside(
    inside: Path, outside: Path, tmp_path: Path, name: str
) -> None:
    table = pa.table({"instruction": [SECRET], "output": [SECRET]})
    for place in (outside / "secret.jsonl", tmp_path / "secret.jsonl"):
        with pa.ipc.new_stream(place, table.schema) as writer:
            writer.write_table(table)
    good = pa.table({"instruction": ["Say a."], "output": ["a"]})
    with pa.ipc.new_stream(inside / "a" / "secret.jsonl", good.schema) as writer:
        writer.write_table(good)
    named = name.format(outside=outside)
    (inside / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": named}], "_fingerprint": "0"})
    )
    (inside / "dataset_info.json").write_text("{}")
    read(inside)
    before = state(tmp_path)
    with contextlib.suppress(VlitqcError):
        reader = open_input(inside)
        places = [(r.origin, "kept") for r in reader.records()]
        reader.divide(places, {"kept": tmp_path / "result" / "kept"})
    after = state(tmp_path)
    assert {k: v for k, v in after.items() if not k.startswith("result")} == before
    (inside / "state.json").unlink()
    (inside / "dataset_dict.json").write_text(json.dumps({"splits": [named, "../outside", "out"]}))
    read(inside)


@pytest.mark.usefixtures("no_socket")
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_metadata_that_names_pictures_outside(inside: Path, outside: Path, form: str, tiny: str) -> None:
    names = ["../outside/secret.png", str(outside / "secret.png"), "out.png", "out/secret.png", "a/b/c.png"]
    folder = inside / "data"
    folder.mkdir()
    for name in ("out.png", "out", "a"):
        (inside / name).rename(folder / name) if name == "a" else (folder / name).symlink_to(
            outside / ("secret.png" if name == "out.png" else "")
        )
    names[0] = "../" + names[0]
    rows = [{"file_name": name, "text": "A picture."} for name in names]
    if form == "jsonl":
        lines(folder / "metadata.jsonl", *rows)
    elif form == "csv":
        text = "file_name,text\n" + "".join(f"{r['file_name']},{r['text']}\n" for r in rows)
        (folder / "metadata.csv").write_text(text)
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    run = vlitqc.score(folder, tiny, out=inside / "run")
    left = run.issues.query("kind == 'path_outside_root'")["row"].tolist()
    assert left == [0, 1, 2, 3]


@pytest.mark.usefixtures("no_socket")
def test_mimic_it_files_that_name_others_outside(inside: Path, outside: Path) -> None:
    told = {
        "data": {
            "i0": {
                "instruction": "What?",
                "answer": "It.",
                "image_ids": ["../outside/secret", "out"],
                "rel_ins_ids": [],
            }
        }
    }
    (inside / "x_instructions.json").write_text(json.dumps(told))
    (inside / "x.json").symlink_to(outside / "secret.json")
    with within(10):
        for record in read(inside / "x_instructions.json"):
            for media in record.media if isinstance(record, Sample) else ():
                assert media.data is None
                assert MediaLoader(inside, longest_side=64).load(media).fault


# ---------------------------------------------------------------- archives, tables


def test_archives_write_nothing_and_links_in_them_lead_nowhere(
    inside: Path, outside: Path, tmp_path: Path, tiny: str
) -> None:
    record = json.dumps({"instruction": "Say a.", "output": "a"}).encode()
    path = inside / "data.tar"
    with tarfile.open(path, "w") as tar:
        for stem in (
            "../outside/new",
            f"{outside}/new",
            "/tmp/vlitqc-evil",
            "a/../../outside/new",
            "x" * 300,
            "000",
        ):
            told = tarfile.TarInfo(f"{stem}.json")
            told.size = len(record)
            tar.addfile(told, io.BytesIO(record))
        for n, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        ):
            told = tarfile.TarInfo(f"link{n}.json")
            told.type, told.linkname = kind, str(outside / "secret.json")
            tar.addfile(told)
            told = tarfile.TarInfo(f"link{n}.png")
            told.type, told.linkname = kind, "../outside/secret.png"
            tar.addfile(told)
    before = state(tmp_path)
    with within(60):
        read(path)
        run = vlitqc.score(path, tiny, out=tmp_path / "run")
        vlitqc.filter(run, drop_issues=["error"], out=tmp_path / "result")
        inspect(path)
    after = {k: v for k, v in state(tmp_path).items() if k.partition("/")[0] not in ("run", "result")}
    assert after == before
    assert not Path("/tmp/vlitqc-evil.json").exists()
    for name in (tmp_path / "run", tmp_path / "result"):
        assert all(SECRET.encode() not in p.read_bytes() for p in name.rglob("*") if p.is_file())


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "name", ["arrow.py_extension_type", "ray.data.arrow_pickled_object", "arrow.json", "x.y"]
)
def test_extension_types_are_not_unpickled(tmp_path: Path, form: str, name: str) -> None:
    bomb = tmp_path / "touched"
    pickled = pickle.dumps(_Touch(bomb))
    told = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickled}
    field = pa.field("evil", pa.string() if name == "arrow.json" else pa.binary(), metadata=told)
    schema = pa.schema([pa.field("instruction", pa.string()), pa.field("output", pa.string()), field])
    schema = schema.with_metadata({"pandas": pickled, "huggingface": pickled})
    table = pa.Table.from_pydict(
        {"instruction": ["a"], "output": ["b"], "evil": ["{}" if name == "arrow.json" else pickled]},
        schema=schema,
    )
    path = tmp_path / f"data.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, schema) as writer:
            writer.write_table(table)
    reader = open_input(path)
    records = list(reader.records())
    assert len(records) == 1
    reader.divide([(records[0].origin, "kept")], {"kept": tmp_path / f"kept.{form}"})
    inspect(path)
    assert not bomb.exists()


def test_nothing_that_runs_data_is_called_on_the_way_in() -> None:
    """No eval, no pickle, no extraction, no shell: in any room that data passes."""
    modules = {
        "pickle",
        "_pickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
        "yaml",
        "subprocess",
        "ctypes",
    }
    calls = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "extractall",
        "extract",
        "system",
        "popen",
        "loads_pickle",
    }
    rooms = ("formats", "media", "engine", "executors", "filtering", "analysis", "console", "cli")
    files = [p for room in rooms for p in (ROOT / "vlitqc" / room).rglob("*.py")]
    files += [ROOT / "vlitqc" / f"{name}.py" for name in ("remote", "types")]
    files += [*(ROOT / "metrics").rglob("*.py"), *(ROOT / "reports").rglob("*.py")]
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            named: list[str] = []
            if isinstance(node, ast.Import):
                named = [a.name.partition(".")[0] for a in node.names if a.name.partition(".")[0] in modules]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in modules:
                named = [str(node.module)]
            elif isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                is_re = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") in (
                    "re",
                    "regex",
                )
                # An expression of polars over the items of a list; what it is given is code of ours.
                is_polars = name == "eval" and ast.unparse(function).endswith(".list.eval")
                named = [name] if name in calls and not is_re and not is_polars else []
                named += [k.arg for k in node.keywords if k.arg in ("allow_pickle", "shell")]
            found += [f"{path.relative_to(ROOT)}:{node.lineno} {n}" for n in named]
    recipes = "vlitqc/filtering/recipes/__init__.py"
    assert [place.partition(":")[0] for place in found if place.endswith(" yaml")] == [recipes]
    # It asks an address of the command line who answers there; no data comes near.
    asked = "vlitqc/executors/ray.py"
    assert [place for place in found if not (place.endswith(" yaml") or place.startswith(asked))] == []
    assert {place.rpartition(" ")[2] for place in found if place.startswith(asked)} == {"subprocess"}
    loaders = re.findall(r"yaml\.(\w*Loader\b|\w*load\w*)", (ROOT / recipes).read_text())
    assert set(loaders) == {"SafeLoader", "safe_load"}


# ---------------------------------------------------------------- names from data


@pytest.mark.usefixtures("no_socket")
def test_no_id_becomes_the_name_of_a_file(inside: Path, outside: Path, tmp_path: Path, tiny: str) -> None:
    ids = [
        "../../evil",
        str(outside / "evil"),
        "a/b",
        "..",
        ".",
        "",
        "x" * 5000,
        "\0",
        "a\nb",
        "-rf",
        "con",
        7,
        "\ud800",
    ]
    records = [{"id": i, "image": "a.png", "conversations": TURNS, "../k": "../v"} for i in ids]
    data = lines(inside / "data.jsonl", *records)
    before = state(tmp_path)
    run = vlitqc.score(data, tiny, out=tmp_path / "run")
    vlitqc.filter(run, drop_issues=["error"], out=tmp_path / "result")
    made = {k: v for k, v in state(tmp_path).items() if k not in before}
    assert {k.partition("/")[0] for k in made} == {"run", "result"}
    assert {k: v for k, v in state(tmp_path).items() if k in before} == before
    other = lines(
        tmp_path / "plain.jsonl",
        *({"id": n, "image": "a.png", "conversations": TURNS} for n in range(len(ids))),
    )
    plain = vlitqc.score(other, tiny, image_root=inside, out=tmp_path / "plain")
    names = [
        {k.partition("/")[2] for k in state(tmp_path) if k.startswith(f"{r}/")} for r in ("run", "plain")
    ]
    # Only the first has been filtered.
    assert names[0] == names[1] | {"filters.json"}, plain.path


# ---------------------------------------------------------------- terminals


def call(*args: object) -> tuple[int, str, str]:
    """The command line in this process, its streams no terminal: exit code, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["vlitqc", *map(str, args)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def hidden(text: str) -> list[str]:
    """The characters of a text that nobody sees, line ends aside."""
    return sorted({f"U+{ord(c):04X}" for c in text if c != "\n" and unicodedata.category(c) in HIDDEN})


PIECES = st.sampled_from(
    [
        "\x1b[31m", "\x1b]0;x\x07", "\x9b2J", "\u202e", "\u2066", "\u2028", "\u2029", "\x85", "\r", "\n",
        "\t", "\b", "\x7f", "\u200b", "\u200f", "\u061c", "\ufeff", "\U000e0041", "\ud800", "\x0b", "\x1c",
        "[red]", "[/]", "[/bold]", "\\", "\\[", ":bomb:", "{}", "%s", "[link=http://x]", "\u00ad", "a", "é",
        "<b>",
    ])  # fmt: skip
ODD = st.characters(categories=HIDDEN)
TEXT = st.lists(st.one_of(PIECES, ODD, st.characters()), min_size=1, max_size=6).map("".join)


def as_name(text: str) -> str:
    """The text as the name of a file, as far as it can be one."""
    plain = "".join("_" if c in "/\0" or 0xD800 <= ord(c) <= 0xDFFF else c for c in text)
    return plain.encode()[:100].decode(errors="ignore").strip(". ") or "x"


def sent(text: str) -> str:
    """The text as an argument of a command can be."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts_=st.lists(TEXT, min_size=8, max_size=24))
def test_no_text_of_the_data_steers_the_terminal(tiny: str, texts_: list[str]) -> None:
    def pick(n: int) -> str:
        return texts_[n % len(texts_)]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / as_name(pick(0))
        folder.mkdir()
        path = lines(
            folder / f"{as_name(pick(1))}.jsonl",
            *(
                record
                for n, t in enumerate(texts_)
                for record in (
                    {"id": t, "image": t, "conversations": TURNS},
                    {
                        "id": t,
                        "image": "../" + t,
                        "conversations": [{"from": t, "value": t}, {"from": "gpt", "value": t}],
                    },
                    {"id": t, t: pick(n + 1), "messages": [{"role": t, "content": t, t: t}]},
                    {t: t},
                    [t],
                )
            ),
        )
        arguments: list[tuple[object, ...]] = [
            ("score", path, "--profile", tiny),
            ("score", path, "--profile", tiny, "--json"),
            ("filter", path, "--drop-issue", "error"),
            ("filter", path, "--drop-issue", "error", "--json"),
            ("filter", path, "--drop-issue", sent(pick(2)) or "x"),
            ("filter", path, "--drop-below", f"{sent(pick(3))}=1"),
            ("filter", path, "--drop-below", f"image_readability={sent(pick(4))}"),
            ("report", path),
            ("report", path, "--form", sent(pick(4))),
            ("report", folder / as_name(pick(5))),
            ("inspect", path),
            ("inspect", path, "--json"),
            ("inspect", folder / as_name(pick(6))),
            ("inspect", path, "--map", f"{sent(pick(6))}=x"),
            ("inspect", path, "--format", sent(pick(7))),
            ("metrics", sent(pick(5)) or "x"),
            ("metrics", "--profile", sent(pick(6)) or "x"),
            ("score", path, "--metrics", sent(pick(7)) or "x"),
            ("score", path, "--image-root", folder / as_name(pick(0))),
            ("score", path, "--max-errors", sent(pick(1))),
            ("score", path, "--limit", sent(pick(1))),
            ("score", path, f"--{sent(pick(2))}"),
            (sent(pick(3)),),
        ]
        for args in arguments:
            code, out, err = call(*args)
            assert code in (0, 2, 3, 4), (args, code, out, err)
            assert hidden(out) == [], (args, out)
            assert hidden(err) == [], (args, err)
            assert "Traceback" not in err
            if "--json" in args and code == 0:
                assert out.isascii()
                json.loads(out)


@settings(max_examples=100, deadline=None)
@given(TEXT)
@example("\\\\\\")
def test_visible_and_clean_text_on_a_terminal(text: str) -> None:
    assert hidden(console.visible(text)) == []
    assert len(console.visible(text)) == len(text)
    out = io.StringIO()
    shown = Console(
        file=out, force_terminal=True, color_system="truecolor", width=10_000, emoji=False, highlight=False
    )
    shown.print(f"[bold]{console.clean(text)}[/bold]", soft_wrap=True)
    told = out.getvalue().removeprefix("\x1b[1m").removesuffix("\x1b[0m\n")
    # A backslash before a bracket or at the end may be lost to the markup; nothing else is.
    plain = [t.replace("\\[", "[").rstrip("\\") for t in (told, console.visible(text))]
    assert plain[0] == plain[1]


def test_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = lines(tmp_path / "data.jsonl", {"instruction": "a", "output": "b"})
    for name in ("PROFILE", "METRICS", "BATCH_SIZE", "DEVICE", "IMAGE_ROOT", "JUDGE_URL"):
        with monkeypatch.context() as patch:
            patch.setenv(f"VLITQC_SCORE_{name}", "\x1b[31m\u202e[red]\u2028")
            code, out, err = call("score", path)
        assert code in (2, 3), (name, err)
        assert hidden(out + err) == []


def test_a_defect_of_ours_prints_no_escape_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("\x1b[31m of \u202e data")

    monkeypatch.setattr(cli, "cli", broken)
    code, out, err = call("metrics")
    assert code == 1
    assert out == ""
    assert "Traceback" in err
    assert "ZeroDivisionError: \ufffd[31m of \ufffd data" in err
    assert hidden(err) == []


# ---------------------------------------------------------------- the page

EVIL = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "</style><script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)", "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>", "<svg/onload=alert(1)>", "<!--", "-->", "]]>",
    "<base href=//evil.example>", "<meta http-equiv=refresh content=0>", "{{7*7}}", "{% raw %}",
    "&lt;script&gt;", "</title>", "</template>", "<iframe srcdoc=x>", "\u2028", "\x1b[31m", "\u202e", "\0",
    "\ud800", "data:text/html,<script>alert(1)</script>",
)  # fmt: skip


class Page(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_nothing_of_the_data_becomes_part_of_the_page(
    tmp_path: Path, profile_file: Callable[[str], str]
) -> None:
    """The whole way from the file: ids, texts, speakers, keys, file names, URLs, reasons, the names of models."""
    profile = Path(
        profile_file("[metrics.image_readability]\n[metrics.composition]\n[metrics.correctness]\n")
    )
    text = profile.read_text() + f"unavailable = {json.dumps(EVIL[0] + EVIL[3])}\n"
    profile.write_text(
        text.replace('"own"', json.dumps(EVIL[0] + EVIL[3])).replace('"Nothing."', json.dumps(EVIL[1]))
    )
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    pages = []
    for marks in (EVIL, ("plain",) * len(EVIL)):
        records: list[Any] = [{"id": m, "image": m, "conversations": TURNS} for m in marks]
        records += [
            {"id": m, "image": f"http://x/{m}", m: m, "conversations": [{"from": m, "value": m}]}
            for m in marks
        ]
        records += [{"id": m, m: m} for m in marks]
        path = lines(folder / f"{len(pages)}<script>alert(1)<.jsonl", *records)
        run = vlitqc.score(path, str(profile), out=tmp_path / f"run{len(pages)}")
        source = (run.path / "report.html").read_text(encoding="utf-8")
        assert hidden(source.replace("\t", "")) == []
        pages.append(Page(source))
    tags = [{tag for tag, _ in page.elements} for page in pages]
    assert tags[0] <= tags[1] | {"span", "bdi", "code"}
    for page in pages:
        scripts = [attributes for tag, attributes in page.elements if tag == "script"]
        assert sum("type" not in attributes for attributes in scripts) == 1
        assert all(
            attributes.get("type") in (None, "application/json", "text/plain") for attributes in scripts
        )
        for tag, attributes in page.elements:
            assert tag not in ("iframe", "object", "embed", "base", "img")
            for key, value in attributes.items():
                assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9-]*", key), (tag, key)
                assert not key.startswith("on"), (tag, key)
                assert key not in ("srcdoc", "action", "formaction", "src"), (tag, key)
                if key in ("href", "xlink:href"):
                    assert re.match(r"#|data:,$|data:image/(jpeg|png);base64,", value or ""), (tag, value)
