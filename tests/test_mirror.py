"""Runs at a URL: equal to local ones, taken up by other machines, and never trusted with a name.

The S3-compatible server is in this process; another machine is another folder of caches.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import pickle
import re
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from test_crash import Place, wait_for
from test_ray import Cluster, on

import vlitqc
from vlitqc.cli import cli
from vlitqc.comparison.sets import open_sets
from vlitqc.engine.mirror import Mirror, _told, is_url, local, located
from vlitqc.engine.run import Run
from vlitqc.engine.shards import Shard, read_done
from vlitqc.errors import RunError, UsageError, VlitqcError
from vlitqc.executors.deadly import DeadlySearch
from vlitqc.filtering.explain import explain
from vlitqc.gates import write_junit

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")

KEY, SECRET = "the-key-of-the-test", "a-secret-that-nobody-keeps"
KINDS = ("shards", "scores", "issues.parquet", "profile.json")
"""What must be at the URL as it would be in a folder, to the byte."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3-compatible server with the bucket ``bucket``; its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield address
    running.stop()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Makes this process one on the machine of that name: its caches are its own."""

    def move(name: str) -> Path:
        home = tmp_path / "machines" / name
        monkeypatch.setenv("VLITQC_CACHE", str(home))
        return home

    move("first")
    return move


@pytest.fixture
def url(server: str, machine: Any, request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^\w-]", "-", request.node.name)
    return f"s3://bucket/{name}/run"


@cache
def store() -> Any:
    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


def there(url: str) -> dict[str, bytes]:
    """Every file at the URL."""
    root = url.removeprefix("s3://")
    fs = store()
    # The folder itself is listed as well where its first file comes in between.
    found = [path for path, info in fs.find(root, detail=True).items() if info["type"] == "file"]
    return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in found}


def here(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def equal_part(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith(KINDS)}


def card(content: bytes, place: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(content.decode().replace(str(place), "RUN"))
    return {key: value for key, value in told.items() if key not in ("created", "seconds", "command")}


# ---------------------------------------------------------------- names


def test_what_is_a_url() -> None:
    assert (
        is_url("s3://bucket/run")
        and is_url("memory://x")
        and is_url("abfs://box@account.dfs.core.windows.net/x")
    )
    assert not any(map(is_url, ("data", "/a/b", "C:\\x", "a:b", "s3:/bucket", Path("s3://bucket/run"), None)))
    assert located("file:///x/run") == located("/x/run") == (Path("/x/run"), None)


def test_a_mirror_is_in_a_folder_of_the_machine_it_is_sent_to(machine: Callable[[str], Path]) -> None:
    mirror = Mirror("s3://bucket/some/first run.vlitqc/")
    assert mirror.url == "s3://bucket/some/first run.vlitqc"
    assert mirror.folder.name == "first_run.vlitqc" and mirror.folder.is_relative_to(machine("first"))
    assert Mirror("s3://bucket/other/first run.vlitqc").folder != mirror.folder
    sent = pickle.dumps(mirror)
    home = machine("second")
    assert pickle.loads(sent).folder.is_relative_to(home)
    assert SECRET.encode() not in sent


@pytest.mark.parametrize(
    "url",
    [
        "s3://somebody:se-cret@bucket/run",
        "sftp://somebody:se-:cr@et@host/run",
        "memory://somebody:se-/cret@host/run",
        "simplecache::s3://somebody:se-/cret@bucket/run",
        "https://se-token@host/run",
        "https://host/run?sv=1&sig=se-cret",
        "abfs://box@host/run?sas=se-cret",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="holds a password or a key") as told:
        located(url)
    with pytest.raises(UsageError, match="is a URL; name a file or a folder") as again:
        local(url)
    for text in (str(told.value), str(again.value), _told(OSError(f"no answer from {url}"))):
        assert "se-" not in text and "somebody" not in text
    assert (
        _told(OSError("no answer from http://127.0.0.1:9/bucket."))
        == "no answer from http://127.0.0.1:9/bucket"
    )


@pytest.mark.parametrize(
    "path", ["s3://bucket//run", "s3://bucket/a/../run", "s3://bucket/./run", "s3://bucket/.."]
)
def test_a_url_has_only_plain_parts(path: str) -> None:
    with pytest.raises(UsageError, match="has a part that is empty"):
        located(path)
    plain = ("s3://bucket/..run", "memory:///run", "zip://run::file:///a.zip", "abfs://box@host/run")
    assert [Mirror(url).url for url in plain] == [*plain]


def test_a_url_is_no_path(
    url: str, make_data: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(3)
    run = vlitqc.score(data, tiny, out=url, report=False)
    below = f"{url}/x"
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    for call in (
        lambda: run.report(f"{below}.html"),
        lambda: run.report(Path(f"{below}.html")),
        lambda: vlitqc.filter(url, drop_issues="error", out=below),
        lambda: vlitqc.score(data, tiny, out=Path(url)),
        lambda: vlitqc.score(f"{below}.jsonl", tiny),
        lambda: vlitqc.score([f"{below}.jsonl"], tiny),
        lambda: vlitqc.score(data, tiny, out=tmp_path / "out", image_root=below),
        lambda: vlitqc.inspect(f"{below}.jsonl"),
        lambda: Run.open(Path(url)),
        lambda: explain(run, "row:0", decisions=Path(below)),
        lambda: write_junit(below, [], run),
        lambda: open_sets([url, Path(url)]),
    ):
        assert "is a URL; name a file or a folder" in sentence(call)
    assert set(tmp_path.iterdir()) - {tmp_path / "out"} == before


# ---------------------------------------------------------------- equal


def test_a_run_at_a_url_is_that_in_a_folder(url: str, messy: Path, tiny: str, tmp_path: Path) -> None:
    local = vlitqc.score(messy, tiny, out=tmp_path / "local")
    run = vlitqc.score(messy, tiny, out=url)
    found = there(url)
    assert equal_part(found) == equal_part(here(local.path)) == equal_part(here(run.path))
    assert card(found["scorecard.json"], url) == card(
        (local.path / "scorecard.json").read_bytes(), local.path
    )
    assert (
        found.keys()
        == here(local.path).keys() - {".lock"} - {f"features/{name}.npy" for name in ("shape", "durations")}
        | {"features/lengths.npy", "features/sizes.npy"} & found.keys()
    )
    assert run.place == url and run.scores.equals(local.scores)
    assert str(run.path) not in found["report.html"].decode() + found["scorecard.json"].decode()
    assert not [
        name for name, content in found.items() if SECRET.encode() in content or KEY.encode() in content
    ]
    assert json.loads(found["run.json"]) == run.info and run.info["state"] == "finished"
    assert "write to the URL" in run.info["times"]["stages"]


def test_memory_and_a_folder_by_its_url(machine: Any, make_data: Any, tiny: str, tmp_path: Path) -> None:
    data = make_data(6)
    for url in (f"memory://{tmp_path.name}/run", f"file://{tmp_path}/by-url"):
        run = vlitqc.score(data, tiny, out=url, report=False)
        assert Run.open(url).scores.equals(run.scores)
        assert run.info["engine"] == {"name": "local", "workers": 1}
    assert run.path == tmp_path / "by-url" and run.mirror is None


# ---------------------------------------------------------------- other machines


def test_another_machine_reads_what_it_needs(
    url: str, make_data: Any, profile_file: Any, machine: Callable[[str], Path], tmp_path: Path
) -> None:
    profile = profile_file("[metrics.composition]\n[metrics.image_readability]\n")
    data = make_data(40)
    vlitqc.score(data, profile, out=url)
    machine("second")
    run = Run.open(url)
    assert len(run.scores) == 40 and not (run.path / "shards").exists()
    page = run.report()
    assert page.read_bytes() == there(url)["report.html"]
    kept = run.filter(drop_below={"image_readability": "p50"})
    assert 0 < kept.sum() < 40
    # What a report or a selection wants of the shards comes when it is wanted.
    assert isinstance(run.vectors("response"), str)
    assert here(run.path / "shards") == {
        name.removeprefix("shards/"): content
        for name, content in there(url).items()
        if name.startswith("shards/")
    }
    runner = CliRunner()
    told = runner.invoke(cli, ["report", url, "--form", "markdown"], catch_exceptions=False)
    assert told.exit_code == 0 and there(url)["scorecard.md"] == (run.path / "scorecard.md").read_bytes()
    told = runner.invoke(
        cli,
        ["filter", url, "--drop-below", "image_readability=p50", "--out", str(tmp_path / "kept"), "--json"],
    )
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["run"] == url
    assert (tmp_path / "kept" / "data.kept.jsonl").is_file()
    assert runner.invoke(cli, ["check", url, "--require", "n_records >= 40"]).exit_code in (0, 1)
    told = runner.invoke(cli, ["filter", url, "--out", url])
    assert told.exit_code == 2 and "is a URL; name a file or a folder" in told.output


def test_what_is_there_wins(
    url: str, make_data: Any, tiny: str, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(70)
    first = vlitqc.score(data, tiny, out=url, report=False)
    shard = first.path / "shards" / "00001"
    machine("second")
    vlitqc.score(data, tiny, out=url, report=False, batch_size=8)
    second = there(url)["shards/00001/done.json"]
    machine("first")
    assert (shard / "done.json").read_bytes() != second
    run = Run.open(url)
    assert run.info["plan"]["batch_size"] == 8
    # Nothing of the older shards passes for the newer run.
    assert not (shard / "done.json").exists()
    assert isinstance(run.vectors("response"), str)
    assert (shard / "done.json").read_bytes() == second
    moved: list[str] = []
    put, get = Mirror._put, s3fs.S3FileSystem.get

    def counted(self: Mirror, files: Any) -> None:
        moved.extend(files)
        put(self, files)

    def got(self: Any, paths: Any, *more: Any, **words: Any) -> Any:
        moved.extend(paths)
        return get(self, paths, *more, **words)

    monkeypatch.setattr(Mirror, "_put", counted)
    monkeypatch.setattr(s3fs.S3FileSystem, "get", got)
    vlitqc.score(data, tiny, out=url, report=False, batch_size=8)
    assert "scorecard.json" in moved and not [name for name in moved if "shards" in name]


def test_a_shard_without_its_marker_is_scored_again_and_one_that_is_only_here_goes_there(
    url: str, make_data: Any, tiny: str, machine: Callable[[str], Path]
) -> None:
    data = make_data(70)
    run = vlitqc.score(data, tiny, out=url, report=False)
    whole = equal_part(there(url))
    root = url.removeprefix("s3://")
    # Cut off while it was put there, with a file that no shard has.
    store().rm_file(f"{root}/shards/00000/done.json")
    store().pipe_file(f"{root}/shards/00000/features/response-old.npy", b"half")
    before = (run.path / "shards" / "00000" / "done.json").stat().st_ino
    vlitqc.score(data, tiny, out=url, report=False)
    assert equal_part(there(url)) == whole
    assert (run.path / "shards" / "00000" / "done.json").stat().st_ino == before
    store().rm_file(f"{root}/shards/00000/done.json")
    machine("second")
    again = vlitqc.score(data, tiny, out=url, report=False)
    assert equal_part(there(url)) == whole == equal_part(here(again.path))


def test_a_run_that_is_under_way_elsewhere_is_told(url: str, make_data: Any, tiny: str) -> None:
    data = make_data(3)
    run = vlitqc.score(data, tiny, out=url, report=False)
    told: list[str] = []
    cards: list[bool] = []

    class Seen:
        def records(self, done: int, share: float | None) -> None:
            cards.append(bool(store().find(f"{url}/scorecard.json")))

        def stage(self, name: str) -> None:
            cards.append(bool(store().find(f"{url}/scorecard.json")))

    vlitqc.score(data, tiny, out=url, report=False, announce=told.append, progress=Seen())
    assert told == [] and cards and not any(cards)
    mirror = Mirror(url)
    store().pipe_file(
        f"{url}/run.json", json.dumps(run.info | {"state": "running", "host": "node7"}).encode()
    )
    mirror.remove("scorecard.json")
    with pytest.raises(RunError, match=f"the run in {url} did not finish; run its command again"):
        Run.open(url)
    vlitqc.score(data, tiny, out=url, report=False, announce=told.append)
    [warning] = told
    assert url in warning and "node7" in warning


@pytest.fixture
def place(tmp_path: Path, machine: Any) -> Place:
    made = Place(tmp_path)
    made.environment |= {"VLITQC_TEST_SECONDS": "0.01", "VLITQC_CACHE": str(tmp_path / "killed")}
    made.write()
    return made


def test_killed_and_taken_up_by_another_machine(url: str, place: Place, tmp_path: Path) -> None:
    local = place.home / "local"
    with place.start(place.command(url)) as process:
        # What is listed while it is written need not be there to be read.
        wait_for(lambda: sum(name.endswith("done.json") for name in store().find(url)) >= 3)
        process.kill()
        process.communicate()
    left = there(url)
    assert json.loads(left["run.json"])["state"] == "running" and "scorecard.json" not in left
    finished = [name.split("/")[1] for name in left if name.endswith("done.json")]
    store().rm_file(f"{url}/shards/{finished[0]}/done.json")
    kept = [left[f"shards/{name}/scores.parquet"] for name in finished[1:]]
    done = {row for table in kept for row in pq.read_table(io.BytesIO(table))["row"].to_pylist()}
    place.scored()
    place.environment["VLITQC_CACHE"] = str(tmp_path / "another")
    assert place.ended(place.command(url, "--workers", 2)) == (0, "")
    again = set(place.scored())
    assert place.ended(place.command(local)) == (0, "")
    now = there(url)
    assert equal_part(now) == equal_part(here(local))
    assert card(now["scorecard.json"], url) == card((local / "scorecard.json").read_bytes(), local)
    assert again == set(range(300)) - done - {50}
    [folder] = (tmp_path / "another" / "runs").glob("*/run")
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]


# ---------------------------------------------------------------- hostile, and out of order


@pytest.mark.parametrize("key", ["../../../../evil", "part-00000.parquet/../../../evil", "a\\b"])
def test_a_name_that_leads_out_of_the_run(
    url: str, make_data: Any, tiny: str, machine: Callable[[str], Path], tmp_path: Path, key: str
) -> None:
    vlitqc.score(make_data(3), tiny, out=url, report=False)
    root = url.removeprefix("s3://")
    store().pipe_file(f"{root}/scores/{key}", b"evil")
    home = machine("second")
    with pytest.raises(RunError, match="leads elsewhere; delete it"):
        Run.open(url)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert not list(home.rglob("*.parquet"))


def test_what_else_is_at_the_url(url: str, make_data: Any, tiny: str) -> None:
    data = make_data(3)
    store().pipe_file(f"{url}/notes.txt", b"mine")
    with pytest.raises(UsageError, match=f"{url} holds other files; pass --out"):
        vlitqc.score(data, tiny, out=url)
    assert there(url) == {"notes.txt": b"mine"}
    store().rm_file(f"{url}/notes.txt")
    run = vlitqc.score(data, tiny, out=url, report=False)
    with pytest.raises(UsageError, match=f"{url} holds the run of .*data.jsonl; pass --out"):
        vlitqc.score(make_data(3, name="other.jsonl"), tiny, out=url)
    # On another machine an input is not there because it never was.
    moved = data.rename(data.with_name("moved.jsonl"))
    with pytest.raises(UsageError, match=f"{url} holds the run of .*data.jsonl; pass --out"):
        vlitqc.score(make_data(4, name="other.jsonl"), tiny, out=url)
    assert vlitqc.score(moved, tiny, out=url, report=False).info["input"]["path"] == str(moved)
    # Deleted there, it is gone here as well.
    store().rm(url, recursive=True)
    other = vlitqc.score(make_data(4, name="other.jsonl"), tiny, out=url, report=False)
    assert other.path == run.path and len(other.scores) == 4


def test_damaged_files_are_told_in_a_sentence(
    url: str, make_data: Any, tiny: str, machine: Callable[[str], Path]
) -> None:
    data = make_data(3)
    vlitqc.score(data, tiny, out=url, report=False)
    whole = there(url)
    deep = b"[" * 200_000
    told = json.loads(whole["run.json"])
    damaged = [
        *(("run.json", content) for content in (deep, b"[1]", b"\xff", b"", b'{"input": 5}')),
        ("run.json", json.dumps({key: told[key] for key in told if key != "plan"}).encode()),
        ("scorecard.json", deep),
        ("scorecard.json", b'{"principles": 5}'),
        ("profile.json", deep),
        ("issues.parquet", b"x"),
        ("features/lengths.npy", b"\x93NUMPY junk"),
    ]
    machine("second")

    def all_of_it() -> None:
        run = Run.open(url)
        assert len(run.issues) == 3 and run.profile
        run.report()

    for name, content in damaged:
        store().pipe_file(f"{url}/{name}", content)
        text = sentence(all_of_it)
        assert url in text or "lengths.npy" in text, text
        store().pipe_file(f"{url}/{name}", whole[name])
    # A marker that is damaged is none.
    store().pipe_file(f"{url}/shards/00000/done.json", deep)
    assert isinstance(Run.open(url).vectors("response"), str)
    assert len(vlitqc.score(data, tiny, out=url, report=False).scores) == 3
    assert equal_part(there(url)) == equal_part(whole)


def test_what_is_no_file_is_passed_over(url: str, make_data: Any, tiny: str, machine: Any) -> None:
    data = make_data(3)
    run = vlitqc.score(data, tiny, out=url, report=False)
    root = url.removeprefix("s3://bucket/")
    for key in ("", "scores/", "shards/", "shards/00000/"):
        fs = store()
        fs.call_s3("put_object", Bucket="bucket", Key=f"{root}/{key}", Body=b"")
    store().pipe_file(f"{url}/shards/.00000.77", b"5")
    machine("second")
    again = Run.open(url)
    assert again.scores.equals(run.scores)
    again.vectors("response")
    assert not (again.path / "shards" / ".00000.77").exists()
    search = DeadlySearch(Shard(0, tuple(again.reader.records())), again.path / "shards", "with more memory")
    search.begin()
    assert store().exists(f"{url}/shards/{search.journal.name}")
    assert "die again and again" in sentence(search.died)
    assert not store().exists(f"{url}/shards/{search.journal.name}")
    vlitqc.score(data, tiny, out=url, report=False)
    assert not store().exists(f"{url}/shards/.00000.77")


def test_opening_leaves_what_a_process_here_works_with(
    url: str, make_data: Any, tiny: str, machine: Callable[[str], Path]
) -> None:
    data = make_data(3)
    run = vlitqc.score(data, tiny, out=url, report=False)
    only_here = run.path / "features" / "wide.npy"
    only_here.write_bytes(b"joined")
    Run.open(url)
    assert only_here.read_bytes() == b"joined"
    content = (run.path / "run.json").read_bytes()
    store().pipe_file(f"{url}/run.json", json.dumps(run.info | {"state": "running"}).encode())
    Mirror(url).remove("scorecard.json")
    sentence(lambda: Run.open(url))
    assert (run.path / "run.json").read_bytes() == content
    machine("second")
    vlitqc.score(data, tiny, out=url, report=False)
    machine("first")
    Run.open(url)
    assert not only_here.exists()


def test_records_in_memory(
    url: str, make_data: Any, tiny: str, machine: Callable[[str], Path], tmp_path: Path
) -> None:
    records = [json.loads(line) for line in make_data(5).read_text().splitlines()]
    run = vlitqc.score(records, tiny, out=url, report=False)
    assert len(there(url)["input.jsonl"].splitlines()) == 5
    known = run.record(3)
    shutil.rmtree(machine("first"))
    home = machine("second")
    again = Run.open(url)
    assert again.reader.path.is_relative_to(home)
    assert again.record(3).id == known.id
    assert "pass --out DIR" in sentence(lambda: vlitqc.filter(url, drop_issues="error"))
    kept = vlitqc.filter(url, where="n_media >= 0", out=tmp_path / "kept")
    assert json.loads((tmp_path / "kept" / "input.filter.json").read_text())["run"]["path"] == url
    assert kept.written["kept"].read_bytes() == there(url)["input.jsonl"]
    machine("third")
    # A filter's outputs name their run for every machine, and the run them.
    _, part = open_sets([url, tmp_path / "kept" / "input.filter.json"])
    assert part.run.place == url and part.n == 5
    assert explain(Run.open(url), "row:0").records[0].fate == "kept"
    assert len(vlitqc.score(records, tiny, out=url, report=False).scores) == 5


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(VlitqcError) as told:
        call()
    text = str(told.value)
    assert "\n" not in text and "Traceback" not in text and SECRET not in text
    return text


def test_errors_are_sentences(
    url: str, server: str, make_data: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(3)

    def score(out: str) -> str:
        return sentence(lambda: vlitqc.score(data, tiny, out=out, report=False))

    def both(out: str) -> tuple[str, str]:
        return score(out), sentence(lambda: Run.open(out))

    for text in both("nothing://x/y"):
        assert "(Protocol not known: nothing); name a path or another URL" in text
    assert "make the bucket first" in score("s3://nobodys/run")
    assert "s3://nobodys/run is not a run directory" in sentence(lambda: Run.open("s3://nobodys/run"))
    assert "names no folder" in score("s3://")
    assert "needs a package that is not here; Please install gcsfs" in score("gs://bucket/run")
    auth = urllib.request.Request(
        f"{server}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(auth).close()
    try:
        for text in both(url):
            assert "give credentials that may read and write there" in text and url in text
    finally:
        auth.data = b"inf"
        urllib.request.urlopen(auth).close()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Mirror, "_put", full)
    assert "No space left on device" in score(url)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"].__dict__["_registry"], "s3", raising=False)
    assert "pip install 'vlitqc[s3]'" in score(url)


def test_no_server_and_no_credentials(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    assert "give credentials" in sentence(lambda: Mirror(url).push("run.json"))
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert f"{url} cannot be read (" in sentence(lambda: Run.open(url))
    s3fs.S3FileSystem.clear_instance_cache()


# ---------------------------------------------------------------- ray


def test_two_nodes_with_folders_of_their_own(url: str, place: Place, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    place.environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    place.environment.pop("RAY_ADDRESS", None)
    place.write({40: "it is killed"}, n=160)
    local = place.home / "local"
    reference = place.start(place.command(local, "--workers", 2))
    nodes = [tmp_path / name for name in ("node1", "node2")]
    clusters = Cluster(place.environment)
    try:
        for node in nodes:
            clusters._environment["VLITQC_CACHE"] = str(node)
            clusters.start()
        assert (*reference.communicate(), reference.returncode) == ("", "", 0)
        place.environment["VLITQC_CACHE"] = str(tmp_path / "driver")
        assert place.ended(place.command(url, *on(clusters))) == (0, "")
        found = there(url)
        assert equal_part(found) == equal_part(here(local))
        assert card(found["scorecard.json"], url) == card((local / "scorecard.json").read_bytes(), local)
        assert not [name for name in found if "/." in name]
        shards = [{p.parent.name for p in node.glob("runs/*/run/shards/*/done.json")} for node in nodes]
        assert all(shards) and set.union(*shards) == {f"{i:05d}" for i in range(5)}
        [driver] = (tmp_path / "driver" / "runs").glob("*/run")
        assert all(read_done(path.parent) for path in driver.glob("shards/*/done.json"))
        # Another machine, with nothing of its own, scores nothing again.
        place.scored()
        place.environment["VLITQC_CACHE"] = str(tmp_path / "third")
        assert place.ended(place.command(url)) == (0, "")
        assert place.scored() == []
    finally:
        reference.kill()
        clusters.end()
