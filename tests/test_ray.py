"""The same command on a Ray cluster: equal scores, and nodes, workers and drivers that are killed.

The cluster has two nodes on this machine, each of processes, resources and a temporary folder of its own. The second
says that it has a GPU, so that models live in pools there; they compute on the processor all the same.
"""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import BIGRAMS, REAL, ROOT
from test_crash import FAULTS, RECORDS, WAIT, Place, content, finished_rows, strays, wait_for

from vlitqc.engine.plan import BATCH, BATCH_CUDA
from vlitqc.engine.run import Run
from vlitqc.errors import UnknownName, UsageError
from vlitqc.executors import executor

SECONDS = 0.015
"""How long a sample takes in the metric that counts."""

REAL_PROFILE = (
    """
name = "pictures"
title = "Light metrics and one that counts"
summary = "A test."
adds = "Nothing."
[metrics.image_readability]
[metrics.composition]
[metrics.counted]
[metrics.spread]
"""
    + BIGRAMS
)

MARKED_PROFILE = """
name = "marked"
title = "A model that takes a device"
summary = "A test."
adds = "Nothing."
[metrics.text_readability]
models = { lm = "marked" }
[models.marked]
backend = "marked"
kind = "LanguageModel"
name = "marked"
licence = "MIT"
"""


class Cluster:
    """Nodes of one processor each."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment | {
            # A node whose processes are gone is given up at once, and not after half a minute.
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "4",
            # On a busy machine workers that give way to everybody else would starve.
            "RAY_worker_niceness": "0",
        }
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self.nodes: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(self, gpus: int = 0) -> None:
        """Add a node; the first is the head."""
        first = not self.nodes
        # The paths of sockets may not be long.
        self._folders.append(tempfile.TemporaryDirectory(prefix="ray-test-", ignore_cleanup_errors=True))
        port = self.address.rpartition(":")[2]
        place = ["--head", f"--port={port}", "--include-dashboard=false"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        command += ["--num-cpus=1", f"--num-gpus={gpus}"]
        command += place if first else [f"--address={self.address}"]
        command += [
            f"--node-ip-address=127.0.0.{len(self.nodes) + 1}",
            f"--temp-dir={self._folders[-1].name}",
            "--object-store-memory=100000000",
        ]
        log = Path(self._folders[-1].name, "out").open("wb")  # noqa: SIM115 - the node writes into it
        self.nodes.append(
            subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
        )
        log.close()
        wait_for(self._is_up)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End a node as a power cut does: every process at once."""
        for pid in (*descendants(node.pid), node.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()

    def end(self) -> None:
        for node in reversed(self.nodes):
            if node.returncode is None:
                self.kill(node)
        for folder in self._folders:
            folder.cleanup()

    def _is_up(self) -> bool:
        """Whether the last node has told that it has started."""
        told = Path(self._folders[-1].name, "out").read_text()
        assert self.nodes[-1].poll() is None, told
        return "Ray runtime started" in told


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in listed.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    pytest.importorskip("ray")
    made = Place(tmp_path_factory.mktemp("ray"))
    made.environment["VLITQC_TEST_SECONDS"] = str(SECONDS)
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        made.environment.pop(name, None)
    # A token of its own, so that none is written into the home folder.
    made.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    made.environment["RAY_USAGE_STATS_ENABLED"] = "0"
    made.environment |= {
        "VLITQC_TEST_LOADS": str(made.home / "loads"),
        "VLITQC_TEST_GATE": str(made.home / "gate"),
    }
    (made.home / "site" / "marked.py").write_bytes((FAULTS / "marked.py").read_bytes())
    with (made.home / "site" / "counted-1.0.dist-info" / "entry_points.txt").open("a") as stream:
        stream.write("[vlitqc.models]\nmarked = marked:Marked\n")
    made.write()
    return made


@pytest.fixture(scope="module")
def cluster(place: Place) -> Iterator[Cluster]:
    made = Cluster(place.environment)
    try:
        made.start()
        made.start(gpus=1)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def expected(place: Place) -> Any:
    """The content of an uninterrupted local run."""
    assert place.ended(place.command(place.home / "whole", "--workers", 2)) == (0, "")
    place.scored()
    return content(place.home / "whole")


@pytest.fixture(scope="module")
def marked(place: Place) -> Place:
    """Records for a model that takes a device, and one that it refuses."""
    made = copy.copy(place)
    made.data = place.home / "marked.jsonl"
    made.write({20: "it is refused"}, n=160)
    made.profile = place.home / "marked.toml"
    made.profile.write_text(MARKED_PROFILE)
    return made


@pytest.fixture(scope="module")
def real(place: Place) -> tuple[Place, Path]:
    """160 records of LLaVA-Pretrain, and where they were scored on this machine."""
    if not REAL.is_dir():
        pytest.skip("the shared data is not there")
    made = copy.copy(place)
    made.data = REAL / "blip_laion_cc_sbu_dev.json"
    made.profile = place.home / "pictures.toml"
    made.profile.write_text(REAL_PROFILE)
    out = place.home / "real"
    assert made.ended(made.command(out)) == (0, "")
    made.scored()
    return made, out


def on(cluster: Cluster, workers: int = 2) -> tuple[object, ...]:
    return "--engine", "ray", "--ray-address", cluster.address, "--workers", workers


def files(out: Path) -> dict[str, bytes]:
    """What must be equal to the byte."""
    found = [p for name in ("shards", "scores", "features") for p in (out / name).rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in (*found, out / "issues.parquet")}


def card(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "scorecard.json").read_text().replace(str(out), "RUN"))
    return {key: value for key, value in told.items() if key not in ("created", "seconds", "command")}


def page(out: Path) -> list[str]:
    """The lines of the page but for the times and the command of the run."""
    lines = (out / "report.html").read_text().replace(str(out), "RUN").splitlines()
    return [line for line in lines if not re.search(r"<time>|<span>score</span>|Time taken", line)]


# ---------------------------------------------------------------- equal


def test_a_cluster_of_its_own(place: Place, expected: Any) -> None:
    own = copy.copy(place)
    # It has a token of its own, and none is kept in the home folder.
    own.environment = {k: v for k, v in place.environment.items() if k != "RAY_AUTH_TOKEN"}
    own.environment["HOME"] = str(place.home)
    out, whole = place.home / "own", place.home / "whole"
    assert own.ended(own.command(out, "--engine", "ray", "--workers", 2)) == (0, "")
    place.scored()
    assert content(out) == expected
    assert files(out) == files(whole)
    assert page(out) == page(whole)
    told = {"name": "ray", "workers": 2, "gpus_per_worker": 0.0, "nodes": 1}
    assert Run.open(out).info["engine"] == told
    assert Run.open(whole).info["engine"] == {"name": "local", "workers": 2}
    assert not (place.home / ".ray").exists()


def test_lite_on_ray_equals_lite_on_this_machine(tmp_path: Path, place: Place, cluster: Cluster) -> None:
    """With its two networks in pools of half a GPU each."""
    script = ROOT / "examples" / "make_demo_data.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "data")], check=True, capture_output=True)
    command = [sys.executable, "-m", "vlitqc", "score", str(tmp_path / "data" / "data.jsonl"), "--no-cache"]
    command += ["--out", "run", "--batch-size", "32", "--limit", "48", "--metrics"]
    # Those of both networks, and some of none.
    command += ["image_readability,composition,response_diversity,visual_semantic_diversity,duplicates"]
    begun = []
    # Side by side: most of the time is that of importing libraries.
    for name, options in (("local", ()), ("ray", (*on(cluster, 1), "--profile-time"))):
        home = tmp_path / name
        home.mkdir()
        begun.append(
            subprocess.Popen(
                [*command, *map(str, options)],
                cwd=home,
                env=place.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [process.communicate(timeout=2 * WAIT) for process in begun]
    assert [process.returncode for process in begun] == [0, 0], told
    local, ray = tmp_path / "local" / "run", tmp_path / "ray" / "run"
    assert files(ray) == files(local)
    assert card(ray) == card(local)
    assert page(ray) == page(local)
    assert not [line for _, err in told for line in err.splitlines() if "ray" in line.lower()]
    run = Run.open(ray)
    engine = {"name": "ray", "workers": 1, "gpus_per_worker": 0.5, "nodes": 2}
    assert run.info["engine"] == engine | {"pools": {"efficientnet": 1, "minilm": 1}}
    assert Run.open(local).info["engine"] == {"name": "local", "workers": 1}
    # The times of the models come back from the actor.
    assert run.info["times"]["models"].keys() == Run.open(local).info["times"]["models"].keys()
    assert "where the time went" in told[1][0]


def test_two_nodes_equal_one_process(real: tuple[Place, Path], cluster: Cluster) -> None:
    place, whole = real
    out = place.home / "real-ray"
    assert place.ended(place.command(out, *on(cluster))) == (0, "")
    assert len(place.scored()) == 160
    assert files(out) == files(whole)
    assert card(out) == card(whole)
    assert Run.open(out).info["engine"] == {"name": "ray", "workers": 2, "gpus_per_worker": 0.0, "nodes": 2}


# ---------------------------------------------------------------- records, workers, drivers, nodes


def test_a_record_that_kills_its_worker_is_lost_alone(place: Place, cluster: Cluster, expected: Any) -> None:
    good = Run.open(place.home / "whole").scores
    poisoned = copy.copy(place)
    poisoned.data = place.home / "poisoned.jsonl"
    poisoned.write({40: "it is killed"}, n=160)
    out = place.home / "poisoned"
    assert poisoned.ended(poisoned.command(out, *on(cluster))) == (0, "")
    place.scored()
    run = Run.open(out)
    assert run.issues.query("kind == 'crashed_worker'")["row"].tolist() == [40]
    assert "scoring it ends the process" in run.scores["counted_reason"][40]
    others = [i for i in range(160) if i != 40]
    assert run.scores["counted"][others].equals(good["counted"][others])
    assert run.scores["state"][others].equals(good["state"][others])
    assert strays(out) == []


def test_killed_drivers_and_the_same_command_elsewhere(place: Place, cluster: Cluster, expected: Any) -> None:
    """On Ray, ended as Slurm ends a job; on this machine, killed; on Ray, Ctrl-C; and there to the end."""
    out = place.home / "killed"
    before: dict[int, str] = {}
    for options, sent in ((on(cluster), signal.SIGTERM), ((), signal.SIGKILL), (on(cluster), signal.SIGINT)):
        wanted = len(finished(out)) + 2
        with place.start(place.command(out, *options), start_new_session=True) as process:
            wait_for(partial(has_finished, out, wanted))
            os.killpg(process.pid, sent)
            told = process.communicate(timeout=WAIT)
        if sent == signal.SIGINT:
            assert process.returncode == 130
            again = "interrupted; the same command takes the run up again"
            assert [text.strip() for text in told] == ["", again]
        else:
            assert (process.returncode, told) == (-sent, ("", ""))
        # The cluster ends the actors of a driver that is gone.
        wait_for(lambda: not [pid for node in cluster.nodes for pid in descendants(node.pid) if working(pid)])
        assert not set(place.scored()) & before.keys()
        after = finished_rows(out)
        assert {row: after.get(row) for row in before} == before
        before = after
    assert place.ended(place.command(out, *on(cluster))) == (0, "")
    last = place.scored()
    assert not set(last) & before.keys()
    assert {*last, *before} >= set(range(RECORDS)) - {50}
    assert content(out) == expected
    assert strays(out) == []


def finished(out: Path) -> list[Path]:
    """The markers of the shards that are finished."""
    return list(out.glob("shards/[0-9]*/done.json"))


def has_finished(out: Path, n: int) -> bool:
    return len(finished(out)) >= n


def working(pid: int) -> bool:
    return command_line(pid).startswith(b"ray::Worker")


BOUNDED = """
import functools, operator, sys
import vlitqc.engine.run as engine
from vlitqc.engine.shards import cut
from vlitqc.errors import RunError
from vlitqc.executors.ray import RayExecutor

data, profile, out, address = sys.argv[1:]
drawn = most = 0

class Told:
    told = 0
    def records(self, done, share):
        self.told += 1
    def stage(self, name):
        pass

told = Told()

def counted(records):
    global drawn, most
    for shard in cut(records):
        drawn += 1
        most = max(most, drawn - told.told)
        yield shard

engine.cut = counted
engine.score(data, profile, out=out, engine="ray", ray_address=address, workers=1, report=False, progress=told)
print("drawn", drawn, "at most", most)

with RayExecutor(address, 2) as made:
    print("width", made.spread.width)
    print(list(made.spread.map(functools.partial(operator.add, 10), range(9))))

from vlitqc.executors import ray as module
module.fingerprint = lambda plan, planned: "another"
try:
    engine.score(data, profile, out=out, engine="ray", ray_address=address, workers=1)
except RunError as error:
    print(error)
"""


def test_a_slow_worker_holds_the_reading_back(place: Place, cluster: Cluster) -> None:
    """In the same process: parts of a metric as tasks, and a node whose packages are others."""
    arguments = [str(place.data), str(place.profile), str(place.home / "bounded"), cluster.address]
    code, told = outcome(place, [sys.executable, "-c", BOUNDED, *arguments])
    assert code == 0, told
    lines = told.splitlines()
    # Two are under way, and one that is finished has not been told yet.
    assert lines[0] == "drawn 7 at most 3"
    assert lines[1:3] == ["width 2", str(list(range(10, 19)))]
    assert "would not score as this machine does (files of models differ); install the same" in lines[3]
    place.scored()


def outcome(place: Place, command: list[str]) -> tuple[int, str]:
    with place.start(command) as process:
        out, err = process.communicate(timeout=WAIT)
    return process.returncode, out + err


# ---------------------------------------------------------------- pools of models


NAMES = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(*sorted(actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)), sep="\\n")
"""


def loads(place: Place) -> list[str]:
    """The kinds of process that loaded the model since the last call."""
    log = Path(place.environment["VLITQC_TEST_LOADS"])
    kinds = log.read_text().split()
    log.unlink()
    return kinds


def pool(cluster: Cluster) -> list[int]:
    return [
        pid
        for node in cluster.nodes
        for pid in descendants(node.pid)
        if command_line(pid).startswith(b"ray::ModelActor")
    ]


def test_a_model_that_dies_in_its_pool_loses_nothing(marked: Place, cluster: Cluster) -> None:
    """One of two actors is killed while both compute, by two workers of which one has no actor on its node."""
    local, out = marked.home / "marked-local", marked.home / "marked-pools"
    marked.write({20: "it is refused", 159: "it waits"}, n=160)
    gate = Path(marked.environment["VLITQC_TEST_GATE"])
    gate.touch()
    assert marked.ended(marked.command(local)) == (0, "")
    loads(marked)
    # The run does not end before one is killed.
    gate.unlink()
    options = ("--batch-size", 32, "--gpus-per-worker", 0.5)
    with marked.start(marked.command(out, *on(cluster), *options)) as process:
        wait_for(lambda: Path(marked.environment["VLITQC_TEST_LOADS"]).exists())
        code, names = outcome(marked, [sys.executable, "-c", NAMES, cluster.address])
        os.kill(pool(cluster)[0], signal.SIGKILL)
        gate.touch()
        told = process.communicate(timeout=WAIT)
    assert (process.returncode, told) == (0, ("", ""))
    assert files(out) == files(local)
    assert card(out) == card(local)
    assert "it is refused" in Run.open(out).scores["text_readability_reason"][20]
    assert code == 0, names
    kinds = [f"vlitqc {out.name} {kind}" for kind in ("marked 1", "marked 2", "worker 1", "worker 2")]
    assert names.splitlines() == kinds
    # No worker ever held the model.
    assert set(loads(marked)) == {"ray::ModelActor"}
    told_of = {"name": "ray", "workers": 2, "gpus_per_worker": 0.5, "nodes": 2, "pools": {"marked": 2}}
    assert Run.open(out).info["engine"] == told_of
    assert Run.open(out).info["times"]["models"].keys() == {"marked"}
    gate.unlink()


def test_a_record_that_kills_a_pooled_model_is_lost_alone(marked: Place, cluster: Cluster) -> None:
    fatal = copy.copy(marked)
    fatal.data = marked.home / "fatal.jsonl"
    fatal.write({40: "it is fatal"}, n=80)
    out = marked.home / "fatal"
    assert fatal.ended(fatal.command(out, *on(cluster))) == (0, "")
    run = Run.open(out)
    assert run.issues.query("kind == 'crashed_worker'")["row"].tolist() == [40]
    others = [i for i in range(80) if i not in (40, 50)]
    assert run.scores["text_readability"][others].notna().all()
    assert set(loads(marked)) == {"ray::ModelActor"}
    # A batch is one for a GPU, whatever this machine has.
    assert run.info["plan"]["batch_size"] == BATCH_CUDA


def test_a_share_that_is_too_large_for_every_model(marked: Place, cluster: Cluster) -> None:
    command = marked.command(marked.home / "large", *on(cluster), "--gpus-per-worker", 2)
    assert marked.ended(command) == (
        2,
        "error: gpus_per_worker=2: 1 model (marked) with that share each, and the 1 free GPU has room for 0; 1 would "
        "fit\n",
    )


# ---------------------------------------------------------------- nodes that come and go


def test_a_node_that_is_lost_takes_no_record_with_it(real: tuple[Place, Path], cluster: Cluster) -> None:
    place, whole = real
    out = place.home / "real-lost"
    with place.start(place.command(out, *on(cluster))) as process:
        wait_for(partial(has_finished, out, 1))
        cluster.kill(cluster.nodes[1])
        told = process.communicate(timeout=WAIT)
    assert (process.returncode, told) == (0, ("", ""))
    place.scored()
    assert files(out) == files(whole)
    assert card(out) == card(whole)
    assert strays(out) == []


def test_a_node_that_joins_is_used(marked: Place, cluster: Cluster) -> None:
    """One worker more than there are nodes waits for it; workers hold the model."""
    waiting = copy.copy(marked)
    waiting.data = marked.home / "waiting.jsonl"
    waiting.write(dict.fromkeys(range(0, RECORDS, 16), "it waits"))
    out = marked.home / "waiting"
    workers = 1 + sum(node.returncode is None for node in cluster.nodes)
    options = (*on(cluster, workers), "--gpus-per-worker", 0)
    log = Path(marked.environment["VLITQC_TEST_LOADS"])
    with waiting.start(waiting.command(out, *options)) as process:
        wait_for(log.exists)
        cluster.start()
        # Each waits over its first shard.
        wait_for(lambda: len(log.read_text().split()) == workers)
        Path(marked.environment["VLITQC_TEST_GATE"]).touch()
        told = process.communicate(timeout=WAIT)
    assert (process.returncode, told) == (0, ("", ""))
    assert loads(marked) == ["ray::Worker"] * workers
    assert Run.open(out).info["engine"]["gpus_per_worker"] == 0
    assert Run.open(out).info["plan"]["batch_size"] == BATCH


# ---------------------------------------------------------------- one sentence


def test_a_cluster_that_is_not_there(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    for address, told in (
        (
            nobody,
            f"no Ray cluster answers at {nobody} (Connection refused); start one with 'ray start --head'",
        ),
        ("nowhere", "ray_address=nowhere: expected auto or HOST:PORT, such as 10.0.0.1:6379"),
    ):
        out = place.home / "nothing"
        code, error = place.ended(place.command(out, "--engine", "ray", "--ray-address", address))
        assert code == 2
        assert error.startswith(f"error: {told}")
        assert len(error.splitlines()) == 1
        assert not out.exists()


def test_a_wrong_token_or_none(place: Place, cluster: Cluster) -> None:
    other = copy.copy(place)
    without = {k: v for k, v in place.environment.items() if k != "RAY_AUTH_TOKEN"} | {
        "HOME": str(place.home)
    }
    for token in ({"RAY_AUTH_TOKEN": secrets.token_hex(32)}, {}, {"RAY_AUTH_MODE": "disabled"}):
        other.environment = without | token
        code, error = other.ended(other.command(place.home / "nothing", *on(cluster)))
        assert code == 2
        assert error.startswith(f"error: the Ray cluster at {cluster.address} asks for its token; set")
        assert len(error.splitlines()) == 1


def test_options_that_fit_no_engine() -> None:
    with pytest.raises(UnknownName, match="no engine is called 'spark'; known: local, ray"):
        executor("spark")
    with pytest.raises(UsageError, match="ray_address=auto: only for the engine ray; add --engine ray"):
        executor(ray_address="auto")
    with pytest.raises(UsageError, match=r"gpus_per_worker=0.5: only for the engine ray"):
        executor(gpus_per_worker=0.5)
    assert executor(workers=3).told == {"name": "local", "workers": 3}


def test_a_share_of_gpus_that_no_worker_can_have(place: Place) -> None:
    command = place.command(place.home / "none", "--engine", "ray", "--gpus-per-worker", 1.5)
    told = "gpus_per_worker=1.5: expected a share of a GPU such as 0.25, or a whole number"
    assert place.ended(command) == (2, f"error: {told}\n")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "vlitqc.executors.ray", raising=False)
    with pytest.raises(
        UsageError, match=r"the engine ray needs Ray; install it with: pip install 'vlitqc\[ray\]'"
    ):
        executor("ray")
