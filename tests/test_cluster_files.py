"""The files of ``examples/cluster``: against the schemas of those who read them, and the Slurm script on two nodes.

No cloud, Kubernetes or Slurm is asked. ``srun`` is a stand-in that starts each node on this machine.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from conftest import ROOT, TINY

from vlitqc.cli import cli
from vlitqc.engine.run import Run

CLUSTER = ROOT / "examples" / "cluster"
LAUNCHER = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
JOB = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())["spec"]
PODS = [JOB["rayClusterSpec"]["headGroupSpec"], *JOB["rayClusterSpec"]["workerGroupSpecs"]]
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
SLURM = (CLUSTER / "slurm.sh").read_text()
RUN = re.compile(r"^run=\((.*)\)$", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What the custom resource RayJob (ray.io/v1) has, of what is used here; a name that is not there is dropped in silence.
FIELDS = {
    "job": {"entrypoint", "shutdownAfterJobFinishes", "backoffLimit", "rayClusterSpec"},
    "cluster": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "head": {"rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "pod": {"containers", "volumes"},
    "container": {"name", "image", "resources", "env", "envFrom", "volumeMounts"},
}
DIRECTIVES = {
    "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "exclusive", "time", "output"
}  # fmt: skip
QUANTITY = re.compile(r"\d+(\.\d+)?([KMGT]i?|m)?")
SRUN = """#!/bin/bash
# Starts on this machine what srun would start on the nodes that it is given; each has a temporary folder of its own.
echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN $*" >>"$NODES/steps"
node=0
while [[ $1 == --* ]]; do
  [[ $1 == --exclude=* ]] && node=1
  shift
done
exec "$@" --temp-dir="$NODES/$node" --object-store-memory=80000000
"""
RECORDS = 40


def told() -> dict[str, str]:
    """The command of each file that scores."""
    [launched] = re.findall(
        r"^#.*ray exec --tmux \S+ '(.*)'$", (CLUSTER / "ray-cluster.yaml").read_text(), re.M
    )
    [array] = RUN.findall(SLURM)
    [rest] = re.findall(r'^"\$\{run\[@\]\}" (.*)$', SLURM, re.M)
    return {
        "ray-cluster.yaml": launched,
        "kuberay.yaml": JOB["entrypoint"],
        "slurm.sh": f"{array} {rest}".replace('"$address"', "10.0.0.1:20001"),
    }


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", told())
def test_the_command_is_one(name: str) -> None:
    program, command, *arguments = shlex.split(told()[name])
    assert (program, command) == ("vlitqc", "score")
    kind: Any = cli.commands[command]
    with kind.make_context(command, arguments, parent=click.Context(cli, **cli.context_settings)) as context:
        assert isinstance(context, click.Context)
        given = context.params
    assert given["engine"] == "ray"
    assert given["ray_address"]
    # Input and run lie where every node sees them.
    assert {Path(p).parts[:2] for p in (*given["paths"], given["out"])} == {("/", "shared")}


def test_versions_and_images_agree() -> None:
    [base] = re.findall(r"^FROM rayproject/ray:([\d.]+)-py(\d+)-gpu$", DOCKERFILE, re.MULTILINE)
    [pinned] = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    [least] = re.findall(r"ray>=([\d.]+)", " ".join(PROJECT["optional-dependencies"]["ray"]))
    assert base[0] == pinned == JOB["rayClusterSpec"]["rayVersion"]
    assert [int(n) for n in pinned.split(".")] >= [int(n) for n in least.split(".")]
    assert f"Python :: {base[1][0]}.{base[1][1:]}" in " ".join(PROJECT["classifiers"])
    images = [pod["template"]["spec"]["containers"][0]["image"] for pod in PODS]
    [built] = re.findall(r"-t (\S+)", DOCKERFILE)
    assert {*images, LAUNCHER["docker"]["image"], built} == {
        f"registry.example.com/vlitqc:{PROJECT['version']}"
    }
    extras = re.findall(r"vlitqc\[(.*)\]'$", DOCKERFILE.strip())[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    # What the manifests speak of is in the image.
    files = "".join(path.read_text() for path in sorted(CLUSTER.iterdir()))
    promised = {"ray": "--engine ray", "s3": "s3://", "judge": "OPENAI_API_KEY", "models": "--profile modern"}
    assert {extra for extra, word in promised.items() if word in files} == set(extras)
    assert version("ray") == pinned


def test_the_head_has_a_gpu_that_is_the_commands_own() -> None:
    """``--profile modern`` asks TagGPT's second questions where the command runs."""
    head = PODS[0]
    assert {key: head["rayStartParams"][key] for key in ("num-cpus", "num-gpus")} == {
        "num-cpus": "0",
        "num-gpus": "0",
    }
    assert head["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    machine = LAUNCHER["available_node_types"][LAUNCHER["head_node_type"]]
    assert machine["resources"] == {"CPU": 0, "GPU": 0}
    assert machine["node_config"]["InstanceType"].startswith("g6.")


def variables() -> dict[str, dict[str, str]]:
    """What each kind of node has in its environment."""
    options = [
        option.removeprefix("--env=") for option in LAUNCHER["docker"]["run_options"] if "--env=" in option
    ]
    found = {
        "ray-cluster.yaml": dict(option.split("=", 1) for option in options),
        "slurm.sh": dict(re.findall(r"^export (\w+)=(\S+)$", SLURM, re.MULTILINE)),
    }
    for i, pod in enumerate(PODS):
        found[f"kuberay.yaml {i}"] = {
            e["name"]: e["value"] for e in pod["template"]["spec"]["containers"][0]["env"]
        }
    return found


@pytest.mark.parametrize("node", variables())
def test_the_cache_is_of_the_node_and_the_weights_are_shared(node: str) -> None:
    found = variables()[node]
    assert found["HF_HOME"].startswith("/shared/")
    assert not found["VLITQC_CACHE"].startswith("/shared")
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_messages_that_the_page_explains_are_said() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    table = page.partition("## If it does not work")[2].partition("##")[0]
    messages = re.findall(r"^\| `([^`]*)`", table, re.MULTILINE)
    assert len(messages) > 10
    source = "".join(path.read_text() for path in sorted((ROOT / "vlitqc").rglob("*.py")))
    # A sentence over several lines of source is one; what is filled in is left out.
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    source += re.sub(r"\{.*?\}", "…", source)
    assert [message for message in messages if message.rstrip("… ") not in source] == []


# ---------------------------------------------------------------- Ray's launcher


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """As ``ray up`` reads it before it asks the cloud."""
    pytest.importorskip("ray")
    from ray.autoscaler._private.util import prepare_config, validate_config

    made: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(made)
    return made


def test_ray_reads_the_launcher_file() -> None:
    made = checked(LAUNCHER)
    kinds = made["available_node_types"]
    assert sum(kind.get("min_workers", 0) for kind in kinds.values()) == made["max_workers"]
    assert kinds[made["head_node_type"]]["max_workers"] == 0
    # Every node gets the token, and looks for it; nothing of Ray's defaults installs another Ray.
    assert "/home/ray/.ray/auth_token" in made["file_mounts"]
    assert "--env=RAY_AUTH_MODE=token" in made["docker"]["run_options"]
    assert (made["setup_commands"], made["head_setup_commands"]) == ([], [])


@pytest.mark.parametrize(
    "change",
    [{"idle_timeout": 5}, {"head_node_type": "none"}, {"max_workers": 1}, {"provider": {"region": "here"}}],
)
def test_ray_would_not_read_another(change: dict[str, Any]) -> None:
    import jsonschema

    with pytest.raises((ValueError, KeyError, jsonschema.ValidationError)):
        checked(LAUNCHER | change)


def test_the_cloud_knows_what_a_node_asks_for() -> None:
    loaders = pytest.importorskip("botocore.loaders")
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = ServiceModel(loaders.Loader().load_service_model("ec2", "service-2")).operation_model(
        "RunInstances"
    )
    for kind in LAUNCHER["available_node_types"].values():
        asked = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert ParamValidator().validate(asked, shape.input_shape).generate_report() == ""
    known = shape.input_shape.members["InstanceType"].enum
    assert {kind["node_config"]["InstanceType"] for kind in LAUNCHER["available_node_types"].values()} <= set(
        known
    )


# ---------------------------------------------------------------- KubeRay


def test_the_manifest_has_fields_of_the_resource() -> None:
    assert JOB.keys() == FIELDS["job"]
    assert JOB["rayClusterSpec"].keys() == FIELDS["cluster"]
    # The operator makes a token that every pod gets.
    assert JOB["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert PODS[0].keys() == FIELDS["head"]
    for pod in PODS:
        assert all(isinstance(value, str) for value in pod["rayStartParams"].values())
        spec = pod["template"]["spec"]
        assert spec.keys() == FIELDS["pod"]
        [container] = spec["containers"]
        assert container.keys() == FIELDS["container"]
        limits = container["resources"]["limits"]
        assert limits.keys() <= {"cpu", "memory", "nvidia.com/gpu"}
        assert all(isinstance(value, str) and QUANTITY.fullmatch(value) for value in limits.values())
        assert all(isinstance(variable["value"], str) for variable in container["env"])
    for group in PODS[1:]:
        assert group.keys() == FIELDS["worker"]
        # GPUs and workers are counted when the run begins.
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0
        assert int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) > 0


def test_each_folder_of_a_pod_is_on_the_right_volume() -> None:
    for pod in PODS:
        spec = pod["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        [container] = spec["containers"]
        mounts = {m["mountPath"]: volumes[m["name"]].keys() - {"name"} for m in container["volumeMounts"]}
        assert mounts == {"/shared": {"persistentVolumeClaim"}, "/cache": {"emptyDir"}}
        assert {"name": "VLITQC_CACHE", "value": "/cache"} in container["env"]
        # No key stands in the file.
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["vlitqc"]


# ---------------------------------------------------------------- Slurm


def test_the_script_is_sound() -> None:
    directives = [
        line.removeprefix("#SBATCH --") for line in SLURM.splitlines() if line.startswith("#SBATCH")
    ]
    assert {directive.partition("=")[0] for directive in directives} == DIRECTIVES
    # One Ray node a machine, and the directives come before the first command.
    assert "ntasks-per-node=1" in directives
    assert SLURM.index("set -e") > SLURM.rindex("#SBATCH")
    script = str(CLUSTER / "slurm.sh")
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).stderr == b""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([str(shellcheck), script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def nodes() -> Iterator[Path]:
    """A folder with a short path: those of Ray's sockets may not be long."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as made:
        yield Path(made)
        for pid in running(made):
            os.kill(pid, signal.SIGKILL)


def running(mark: str) -> list[int]:
    """The processes whose command lines name ``mark``."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark.encode() in line:
            found.append(int(process.parent.name))
    return found


def test_the_script_scores_on_two_nodes_and_ends_them(nodes: Path, tmp_path: Path, record: Any) -> None:
    pytest.importorskip("ray")
    (nodes / "bin").mkdir()
    (nodes / "bin" / "srun").write_text(SRUN)
    (nodes / "bin" / "srun").chmod(0o755)
    data, profile, out = tmp_path / "data.jsonl", tmp_path / "tiny.toml", tmp_path / "run"
    data.write_text("".join(json.dumps(record(i)) + "\n" for i in range(RECORDS)))
    profile.write_text(TINY)
    ours = shlex.join(["vlitqc", "score", str(data), "--out", str(out), "--profile", str(profile), "--quiet"])
    # What its reader changes, and no more.
    script, n = re.subn(r"^source .*$", f"PATH={shlex.quote(str(nodes / 'bin'))}:$PATH", SLURM, flags=re.M)
    assert n == 1
    script, n = RUN.subn(lambda _: f"run=({ours})", script)
    assert n == 1
    job = os.getpid()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "NODES": str(nodes),
        "OMP_NUM_THREADS": "1",
        "USER": "tests",
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURMD_NODENAME": "first",
    }
    done = subprocess.run(
        ["bash", "-c", script, "slurm.sh"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.open(out)
    assert run.scorecard["counts"] == {"records": RECORDS, "scored": RECORDS, "partial": 0, "unreadable": 0}
    assert {key: run.info["engine"][key] for key in ("name", "workers", "nodes")} == {
        "name": "ray",
        "workers": 2,
        "nodes": 2,
    }
    first, second = (line.split(maxsplit=2) for line in (nodes / "steps").read_text().splitlines())
    # One token for the nodes and the driver, in no command line.
    assert first[:2] == second[:2]
    assert (first[0], len(first[1])) == ("token", 64)
    assert first[1] not in first[2] + second[2]
    assert {"--nodes=1", "--ntasks=1", "--nodelist=first", "--head"} <= set(first[2].split())
    assert {"--nodes=1", "--ntasks=1", "--exclude=first"} <= set(second[2].split())
    assert running(str(nodes)) == []
