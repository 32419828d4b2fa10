"""Ray nodes as processes of their own, each with an address, processors, a store and a temporary folder of its
own."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

START_SECONDS = 120
STORE_BYTES = 200_000_000


class Nodes:
    """A cluster of ``n`` nodes with ``cpus`` processors each; ends with the context, and leaves nothing behind."""

    def __init__(self, n: int, environment: Mapping[str, str], *, cpus: int = 1) -> None:
        self._n = n
        self._cpus = cpus
        self.environment = dict(environment) | {
            # Not a cluster of somebody else's, nor one that somebody else's command could find by its token.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node whose processes are gone is given up at once, and not after half a minute.
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "4",
        }
        self.environment.pop("RAY_ADDRESS", None)
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self.started: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Nodes:
        """Raises RuntimeError with what Ray told where a node does not start."""
        try:
            for _ in range(self._n):
                self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def options(self, workers: int) -> list[str]:
        """Of a command that is to run here."""
        return ["--engine", "ray", "--ray-address", self.address, "--workers", str(workers)]

    def processes(self, i: int) -> list[int]:
        """The numbers of all processes of node ``i``."""
        node = self.started[i].pid
        return [*descendants(node), node]

    def kill(self, i: int) -> frozenset[int]:
        """End node ``i`` as a power cut does, every process at once; returns their numbers."""
        node = self.started[i]
        pids = self.processes(i)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()
        return frozenset(pids)

    def _start(self) -> None:
        # The paths of sockets may not be long.
        folder = tempfile.TemporaryDirectory(prefix="ray-bench-", ignore_cleanup_errors=True)
        self._folders.append(folder)
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            f"--num-cpus={self._cpus}",
        ]
        command += [f"--address={self.address}"] if self.started else head
        command += [
            f"--node-ip-address=127.0.0.{len(self.started) + 1}",
            f"--temp-dir={folder.name}",
            f"--object-store-memory={STORE_BYTES}",
        ]
        told = Path(folder.name, "out")
        with told.open("wb") as log:
            node = subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        self.started.append(node)
        until = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in told.read_text():
            if node.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"a Ray node did not start: {told.read_text()}")
            time.sleep(0.1)

    def _end(self) -> None:
        for i in reversed(range(len(self.started))):
            if self.started[i].returncode is None:
                self.kill(i)
        for folder in self._folders:
            folder.cleanup()


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in listed.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found
