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

STOP_WITHIN_S = 20
"""Seconds from SIGTERM until Triton is killed; a stub that was killed makes a stop take 12 s."""


@dataclass(frozen=True)
class Triton:
    """Files, command line and environment of one Triton."""

    models: Path
    """Model repository. Models are loaded by name; at the start it is empty."""
    grpc: int
    http: int
    metrics: int
    shared_memory: str
    """Prefix of its regions in /dev/shm. A killed stub leaves one of 1 MiB, which the next start
    removes.
    """
    places: Places = field(default_factory=Places.find)

    @property
    def _server(self) -> Path:
        return self._packages / "pytriton" / "tritonserver"

    @property
    def _packages(self) -> Path:
        return self.places.triton_venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"

    @property
    def _backends(self) -> Path:
        return self.places.checkout / ".cache" / "triton" / "backends"

    def prepare(self) -> None:
        """Lays the backends out. Raises NotFound where `make setup` did not run."""
        binary = self._server / "bin" / "tritonserver"
        if not binary.is_file():
            raise NotFound("Triton is not installed", where=str(binary), remedy="Run `make setup`")
        self.models.mkdir(parents=True, exist_ok=True)
        stub = (
            self._server
            / "python_backend_stubs"
            / f"3.{sys.version_info.minor}"
            / "triton_python_backend_stub"
        )
        for source in (*(self._server / "backends" / "python").glob("*.*"), stub):
            _lay(source, self._backends / "python" / source.name)
        for source in self.places.triton_backends.glob("*/*.py"):
            _lay(source, self._backends / source.parent.name / source.name)

    def command(self) -> list[str]:
        options = {
            "model-repository": self.models,
            "model-control-mode": "explicit",
            "backend-directory": self._backends,
            "cache-directory": self._server / "caches",
            "http-address": "127.0.0.1",
            "grpc-address": "127.0.0.1",
            "metrics-address": "127.0.0.1",
            "http-port": self.http,
            "grpc-port": self.grpc,
            "metrics-port": self.metrics,
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
