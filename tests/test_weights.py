"""Model files: found in the Hugging Face cache, at a URL's place, at a path of one's own; fetched when asked to."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from vlitqc import profiles
from vlitqc.cli import cli
from vlitqc.errors import ModelUnavailable
from vlitqc.models import weights
from vlitqc.models.pull import pull
from vlitqc.profiles import ModelFile

COMMIT = "1f0c8b9a" * 5
CONTENT = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"\x01" * 3000, "README.md": b"no"}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def snapshot(tmp_path: Path, files: dict[str, bytes], *, ref: str = "main") -> Path:
    """The cache as huggingface_hub lays it out."""
    repository = tmp_path / "hub" / "models--org--name"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text(COMMIT)
    return folder


def test_a_folder_of_the_hub(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, CONTENT)
    file = ModelFile("folder", hub="org/name", patterns=("*.json", "*.safetensors"))
    path, sha256 = weights.checked(file)
    assert path == folder
    listing = "".join(
        f"{name}\0{hashlib.sha256(CONTENT[name]).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    )
    assert sha256 == hashlib.sha256(listing.encode()).hexdigest(), "files of no pattern do not count"
    assert weights.revision(file, path) == COMMIT
    assert file.source == "hf.co/org/name"


def test_a_commit_by_its_own_name_and_one_file(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, CONTENT, ref="v1")
    for revision in (COMMIT, "v1"):
        file = ModelFile("w", "model.safetensors", hub="org/name", revision=revision)
        assert weights.locate(file) == folder / "model.safetensors"
    with pytest.raises(ModelUnavailable, match=r"hf\.co/org/name is not in the cache .*vlitqc models pull"):
        weights.locate(ModelFile("w", "model.safetensors", hub="org/name"))
    with pytest.raises(ModelUnavailable, match="is not in the cache"):
        weights.locate(ModelFile("w", "gone.bin", hub="org/name", revision="v1"))


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        ({"config.json": b"{}"}, "without weights"),
        (
            {"a.safetensors": b"", "m.index.json": b'{"weight_map": {"x": "a.safetensors", "y": "b.bin"}}'},
            r"without b\.bin",
        ),
        ({"a.safetensors": b"", "m.index.json": b"{"}, r"without a readable m\.index\.json"),
    ],
)
def test_a_snapshot_that_was_broken_off(tmp_path: Path, files: dict[str, bytes], lacking: str) -> None:
    snapshot(tmp_path, files)
    with pytest.raises(ModelUnavailable, match=lacking):
        weights.locate(ModelFile("folder", hub="org/name", patterns=("*",)))


def test_weights_in_a_form_that_no_pattern_names_are_not_missed(tmp_path: Path) -> None:
    index = b'{"weight_map": {"x": "pytorch_model-00001-of-00001.bin"}}'
    folder = snapshot(tmp_path, {"model.safetensors": b"w", "pytorch_model.bin.index.json": index})
    file = ModelFile("folder", hub="org/name", patterns=("*.json", "*.safetensors"))
    assert weights.locate(file) == folder
    with pytest.raises(ModelUnavailable, match=r"without pytorch_model-00001-of-00001\.bin"):
        weights.locate(ModelFile("folder", hub="org/name", patterns=("*.json", "*.bin")))


def test_a_model_of_the_command_line_has_a_command_of_its_own() -> None:
    entry = profiles.model_from("org/name@v1", role="lm", kind="LanguageModel", backend="causal_lm")
    with pytest.raises(ModelUnavailable, match="run: hf download org/name --revision v1"):
        weights.locate(entry.files[0])


def test_paths_of_the_user(tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "ck.pth"
    kept.parent.mkdir()
    kept.write_bytes(b"w")
    assert weights.locate(ModelFile("w", "{cache}/ck.pth")) == kept
    with pytest.raises(ModelUnavailable, match="~nosuchuser/x does not exist"):
        weights.locate(ModelFile("w", "~nosuchuser/x"))


def test_a_file_of_ones_own_says_how_to_get_it() -> None:
    with pytest.raises(ModelUnavailable, match=r"/no/ck\.pth does not exist; write to the authors"):
        weights.locate(ModelFile("w", "/no/ck.pth", how="write to the authors"))


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"first")
    monkeypatch.setattr(weights, "REMEMBERED", 4)
    read: list[Path] = []
    digest = weights._digest
    monkeypatch.setattr(weights, "_digest", lambda p: (read.append(p), digest(p))[1])
    first = weights.sha256_of(path, fresh=False)
    assert weights.sha256_of(path, fresh=False) == first == hashlib.sha256(b"first").hexdigest()
    assert read == [path]
    assert weights.sha256_of(path) == first
    assert len(read) == 2, "asked for afresh, it is read"
    path.write_bytes(b"other!")
    assert weights.sha256_of(path, fresh=False) == hashlib.sha256(b"other!").hexdigest()


# ---------------------------------------------------------------- fetching


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs."""

    files: ClassVar[dict[str, bytes]] = CONTENT
    asked: ClassVar[list[str]] = []
    gated: ClassVar[bool] = False
    short: ClassVar[bool] = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        Hub.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if Hub.gated:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path.startswith("/api/models/org/name/revision/main"):
            siblings = [{"rfilename": name} for name in self.files]
            self._send(json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith("/api/models/org/name/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            self._send(json.dumps(tree).encode())
        elif (name := path.rsplit("/", 1)[-1]) in self.files:
            self._send(self.files[name], name)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, data: bytes, name: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:-100] if self.short and name else data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    Hub.asked, Hub.gated, Hub.short = [], False, False
    yield url
    server.shutdown()
    server.server_close()


def nothing(_done: int, _total: int | None) -> None:
    """No progress."""


def test_pull_from_a_hub(hub: str, tmp_path: Path) -> None:
    file = ModelFile("folder", hub="org/name", patterns=("*.json", "*.safetensors"))
    pull(file, nothing)
    path, _ = weights.checked(file)
    assert path == tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT
    assert (path / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    assert not (path / "README.md").exists(), "only what the patterns name is fetched"
    assert weights.revision(file, path) == COMMIT


def test_pull_of_a_gated_repository(hub: str) -> None:
    Hub.gated = True
    with pytest.raises(ModelUnavailable, match=r"is gated: accept its licence at .* hf auth login"):
        pull(ModelFile("folder", hub="org/name", patterns=("*.json",)), nothing)


def test_pull_of_what_is_not_there(hub: str) -> None:
    with pytest.raises(ModelUnavailable, match="does not exist, or is private"):
        pull(ModelFile("folder", hub="org/other", patterns=("*.json",)), nothing)


def test_pull_from_a_url(hub: str, tmp_path: Path) -> None:
    url = f"{hub}/weights/model.safetensors"
    sha256 = hashlib.sha256(CONTENT["model.safetensors"]).hexdigest()
    file = ModelFile("checkpoint", url=url, sha256=sha256)
    with pytest.raises(ModelUnavailable, match="has not been fetched; run: vlitqc models pull"):
        weights.locate(file)
    told: list[tuple[int, int | None]] = []
    pull(file, lambda done, total: told.append((done, total)))
    assert told[-1] == (3000, 3000)
    path, found = weights.checked(file)
    assert found == sha256
    assert path.is_relative_to(tmp_path / "cache")
    assert path.name == "model.safetensors"


@pytest.mark.parametrize(
    ("short", "sha256", "message"),
    [
        (False, "0" * 64, "the profile names 0000000000000000…: it was not kept"),
        (True, None, r"could not be fetched \((OSError: the connection ended|IncompleteRead)"),
    ],
)
def test_bytes_that_are_not_the_ones_named(
    hub: str, tmp_path: Path, short: bool, sha256: str | None, message: str
) -> None:
    Hub.short = short
    file = ModelFile("checkpoint", url=f"{hub}/weights/model.safetensors", sha256=sha256)
    with pytest.raises(ModelUnavailable, match=message):
        pull(file, nothing)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_a_cache_that_cannot_be_made(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLITQC_CACHE", "/dev/null/x")
    with pytest.raises(ModelUnavailable, match=r"cannot be made .*set VLITQC_CACHE"):
        pull(ModelFile("checkpoint", url=f"{hub}/weights/model.safetensors"), nothing)


def test_offline_opens_no_socket(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for file in (
        ModelFile("folder", hub="org/name", patterns=("*.json",)),
        ModelFile("checkpoint", url=f"{hub}/weights/model.safetensors"),
    ):
        with pytest.raises(ModelUnavailable, match="is not fetched in offline mode; unset HF_HUB_OFFLINE"):
            pull(file, nothing)
    assert Hub.asked == []


# ---------------------------------------------------------------- the command line


def own_profile(profile_file: Callable[[str], str]) -> str:
    return profile_file("""
[models.encoder]
backend = "sentence_transformers"
kind = "TextEncoder"
name = "org/name"
licence = "MIT [red]not markup[/red]"
[[models.encoder.files]]
role = "folder"
hub = "org/name"
patterns = ["*.json", "*.safetensors"]
size = 3_000_000
[metrics.response_diversity]
models = { encoder = "encoder" }
""")


def test_list_pull_verify(hub: str, profile_file: Callable[[str], str]) -> None:
    profile = own_profile(profile_file)
    run = CliRunner().invoke
    listed = run(cli, ["models", "list", "--profile", profile], catch_exceptions=False)
    assert "3.0 MB" in listed.output
    assert "MIT [red]not markup[/red]" in listed.output
    assert f"run: vlitqc models pull --profile {profile}" in listed.output.replace("\n", "")

    failed = run(cli, ["models", "verify", "--profile", profile])
    assert isinstance(failed.exception, ModelUnavailable)

    pulled = run(cli, ["models", "pull", "--profile", profile], catch_exceptions=False)
    assert "hf.co/org/name  here" in pulled.output
    rows = json.loads(run(cli, ["models", "list", "--profile", profile, "--json"]).output)
    assert rows[0]["missing"] is None
    assert rows[0]["bytes"] == len(CONTENT["config.json"]) + len(CONTENT["model.safetensors"])
    verified = run(cli, ["models", "verify", "--profile", profile], catch_exceptions=False)
    assert "not named by the profile" in verified.output

    unknown = run(cli, ["models", "pull", "--profile", profile, "encodr"])
    assert "did you mean encoder" in str(unknown.exception)


def test_what_pull_cannot_fetch_is_told(profile_file: Callable[[str], str]) -> None:
    profile = profile_file("""
[models.icnet]
backend = "sentence_transformers"
kind = "ImageScorer"
name = "ICNet"
licence = "?"
files = [{ role = "checkpoint", path = "/no/ck.pth", how = "ask its authors" }]
[metrics.visual_complexity]
models = { model = "icnet" }
""")
    result = CliRunner().invoke(cli, ["models", "pull", "--profile", profile])
    assert "ask its authors" in result.output
    assert isinstance(result.exception, ModelUnavailable)
    assert result.exception.exit_code == 3
