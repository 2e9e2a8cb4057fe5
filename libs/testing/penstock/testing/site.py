"""A site as a program of its own, with a folder of its own, on free ports of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

import psutil

from penstock.testing.broker import free_ports

_MODULE: Final = [sys.executable, "-m", "penstock_edge_gateway.site"]
_STOPS_WITHIN_S: Final = 30.0
_IMPATIENT: Final = """\
from penstock_edge_gateway.site import hub
hub.LONGEST_S = {}
from penstock_edge_gateway.site.__main__ import main
main([])
"""


class SiteUnderTest:
    """Ended at the end of the block."""

    def __init__(self, folder: Path, *, patience_s: float | None = None, **settings: str) -> None:
        """`patience_s`: longest pause before it tries the hub again, where a test does not wait for the
        usual minute. `settings`: further ones, `PENSTOCK_SITE__…` without that.
        """
        self.folder = folder
        self._command = (
            _MODULE if patience_s is None else [sys.executable, "-c", _IMPATIENT.format(patience_s)]
        )
        self.log = folder.with_name(f"{folder.name}.log")
        port, http_port = free_ports(2)
        self.endpoint, self.http = f"127.0.0.1:{port}", f"127.0.0.1:{http_port}"
        own = {"HOME": str(folder), "PORT": str(port), "HTTP_PORT": str(http_port)} | settings
        self._environment = os.environ | {f"PENSTOCK_SITE__{name}": value for name, value in own.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def join(self, token: str) -> None:
        """Makes this machine the site of the token."""
        joining = [*_MODULE, "join", "-"]
        done = subprocess.run(
            joining, env=self._environment, input=token, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Starts it; it answers a moment later."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    @property
    def resident_mb(self) -> float:
        assert self._process
        return float(psutil.Process(self._process.pid).memory_info().rss) / 1e6

    def stop(self) -> None:
        """Ends it as an operator does."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(_STOPS_WITHIN_S)
            self._process = None

    def kill(self) -> None:
        """Ends it as a power cut does, but for the page cache."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
