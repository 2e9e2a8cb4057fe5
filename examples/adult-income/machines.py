"""Machines on which the demo's sites run: processes of this one, each behind a wire, or containers of
deploy/compose/sites.yaml. Either has a disk, programs that reach it at `endpoint`, and a line to the
hub that can be cut.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from demo import ROOT, Unexpected

from penstock.testing.site import SiteUnderTest
from penstock.testing.wire import Wire
from penstock_edge_gateway.token import Token

NEW, JOIN = "rm -rf site/* site/.[!.]*", "python -m penstock_edge_gateway.site join -"
CLEARS_LINE = "\x1b[2K"  # as compose begins lines of logs
SPOIL = """
import pathlib, sys
graph = max(pathlib.Path(sys.argv[1]).rglob("model.onnx"), key=lambda path: path.stat().st_mtime)
data = bytearray(graph.read_bytes())
data[len(data) // 2] ^= 1
graph.chmod(0o600)
graph.write_bytes(data)
"""


class Machine(Protocol):
    """A machine that has joined as a site, whose program starts and stops."""

    endpoint: str

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def cut(self) -> None:
        """Takes the line to the hub away."""

    def mend(self) -> None: ...

    def spoil(self) -> None:
        """Changes one byte of the newest model on its disk."""

    def log(self) -> str:
        """JSON lines of its program."""


class ProcessMachine:
    """Ends with the `stack` of contexts."""

    def __init__(self, name: str, token: str, stack: ExitStack, home: Path) -> None:
        wire = stack.enter_context(Wire(to=int(Token.read(token).hub.rpartition(":")[2])))
        folder = home / "sites-of-the-demo" / f"{name}-{time.time_ns()}"
        program = stack.enter_context(SiteUnderTest(folder))
        program.join(str(replace(Token.read(token), hub=wire.address)))
        program.start()
        self.endpoint = program.endpoint
        self.start, self.stop, self.cut, self.mend = program.start, program.stop, wire.cut, wire.mend
        self._program = program

    def spoil(self) -> None:
        subprocess.run([sys.executable, "-c", SPOIL, self._program.folder], check=True)

    def log(self) -> str:
        return self._program.log.read_text()


class ContainerMachine:
    """The service `name` of deploy/compose/sites.yaml, with a new disk. At the end of the `stack` of
    contexts its line is whole.
    """

    def __init__(self, name: str, token: str, stack: ExitStack) -> None:
        self._name, self._is_cut = name, False
        stack.callback(self.mend)
        compose("stop", name)
        self._once("sh", "-c", f"{NEW}; {JOIN}", told=token)
        self.start()
        self.endpoint = compose("port", name, "9195").strip()
        network = json.loads(compose("config", "--format", "json"))["networks"][name]["name"]
        self._ends = network, compose("ps", "--quiet", "line").strip()

    def start(self) -> None:
        compose("up", "--detach", "--no-deps", self._name)

    def stop(self) -> None:
        compose("stop", self._name)

    def cut(self) -> None:
        _docker("network", "disconnect", *self._ends)
        self._is_cut = True

    def mend(self) -> None:
        if self._is_cut:
            _docker("network", "connect", "--alias", "line", *self._ends)
        self._is_cut = False

    def spoil(self) -> None:
        self._once("python", "-c", SPOIL, "site")

    def log(self) -> str:
        return compose("logs", "--no-color", "--no-log-prefix", self._name).replace(CLEARS_LINE, "")

    def _once(self, *command: str, told: str = "") -> None:
        # Another container on its disk; what it is told on standard input nobody else sees.
        compose("run", "--rm", "--no-TTY", "--no-deps", self._name, *command, told=told)


def compose(*words: str, told: str = "") -> str:
    return _docker("compose", *words, told=told)


def _docker(*words: str, told: str = "") -> str:
    """Standard output of docker in the repository's folder. Raises Unexpected."""
    command = ["docker", *words]
    done = subprocess.run(command, cwd=ROOT, input=told, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unexpected(f"{' '.join(command[:4])}: {done.stderr.strip()}")
    return done.stdout
