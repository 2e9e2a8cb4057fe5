"""Triton from the wheel `nvidia-pytriton`, with our `onnxruntime` backend, in an environment of its
own.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from penstock.contracts.errors import NotFound
from penstock.stack.places import Places


@dataclass(frozen=True)
class Triton:
    """Files, command line and environment of one Triton. `models` is its repository, empty at the
    start: models are loaded by name. Triton is given `link` to it: a shell starts its stub, which ends
    on a space in the model's path, and the load would wait for ever. `grpc` is a socket: `unix:`, a
    path, a colon and a number; over HTTP nobody reaches it. `shared_memory` is the prefix of its
    regions in /dev/shm, of which a killed stub leaves one of 1 MiB; the next start removes it.
    """

    models: Path
    link: Path
    grpc: str
    metrics_port: int
    shared_memory: str
    places: Places = field(default_factory=Places.find)

    @property
    def _server(self) -> Path:
        return self._packages / "pytriton" / "tritonserver"

    @property
    def _packages(self) -> Path:
        return self.places.triton_venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"

    def prepare(self) -> None:
        """Lays the backends out. Raises NotFound where `make setup` did not run."""
        binary = self._server / "bin" / "tritonserver"
        if not binary.is_file():
            raise NotFound("Triton is not installed", where=str(binary), remedy="Run `make setup`")
        self.models.mkdir(parents=True, exist_ok=True)
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self.models)
        stub = (
            self._server
            / "python_backend_stubs"
            / f"3.{sys.version_info.minor}"
            / "triton_python_backend_stub"
        )
        for source in (*(self._server / "backends" / "python").glob("*.*"), stub):
            _lay(source, self.places.triton_backends / "python" / source.name)
        for source in self.places.triton_sources.glob("*/*.py"):
            _lay(source, self.places.triton_backends / source.parent.name / source.name)

    def command(self) -> list[str]:
        grpc_socket, _, grpc_port = self.grpc.rpartition(":")
        options = {
            "model-repository": self.link,
            "model-control-mode": "explicit",
            "backend-directory": self.places.triton_backends,
            "cache-directory": self._server / "caches",
            "allow-http": "false",
            "grpc-address": grpc_socket,
            "grpc-port": grpc_port,
            "metrics-address": "127.0.0.1",
            "metrics-port": self.metrics_port,
            "allow-gpu-metrics": "false",
            "strict-readiness": "false",
            "exit-on-error": "false",
            "exit-timeout-secs": 10,
            "backend-config": f"python,shm-region-prefix-name={self.shared_memory}",
        }
        flags = [str(self._server / "bin" / "tritonserver"), "--disable-auto-complete-config"]
        return [*flags, *(f"--{name}={value}" for name, value in options.items())]

    def environment(self) -> dict[str, str]:
        """Variables for the stub, which embeds an interpreter: PATH decides whose packages it sees,
        LD_LIBRARY_PATH which libpython it is.
        """
        return {
            "PATH": f"{self.places.triton_venv / 'bin'}:{os.defpath}",
            "LD_LIBRARY_PATH": (
                f"{sysconfig.get_config_var('LIBDIR')}:{self._packages / 'nvidia_pytriton.libs'}"
            ),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def _lay(source: Path, target: Path) -> None:
    """Copies a file where it is missing or older: Triton refuses a library behind a symlink. The
    copy is renamed into place, so that another stack may do the same.
    """
    if target.is_file() and (target.stat().st_size, target.stat().st_mtime_ns) == (
        source.stat().st_size,
        source.stat().st_mtime_ns,
    ):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(source, beside)
    beside.replace(target)
