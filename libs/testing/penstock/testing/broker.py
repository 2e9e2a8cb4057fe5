"""A real broker for the tests: the embedded stack's own Kafka in a directory of its own, which a
test may kill and start again.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.runtime.settings import KafkaSettings
from penstock.testing.wait import until

_PR_SET_PDEATHSIG = 1
START_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0


class Kafka:
    """A broker at an address; whose process it is, is not ours to know."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    def settings(self, prefix: str = "") -> KafkaSettings:
        """Kafka settings for a service or a client under test. Give each test a prefix of its own: the
        broker is shared.
        """
        return KafkaSettings(bootstrap_servers=self.bootstrap_servers, topic_prefix=prefix)


class EmbeddedKafka(Kafka):
    """A broker of one's own: `with EmbeddedKafka() as kafka: …; kafka.kill(); kafka.start()`. Ends
    with the process that made it.
    """

    def __init__(self, home: Path | None = None) -> None:
        from penstock.stack.kafka import Broker

        self._own_home = home is None
        self._home = home or Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
        port, controller = free_ports(2)
        self._broker = Broker(self._home, port, controller)
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(self._broker.address)

    def start(self) -> None:
        """Returns once the broker answers clients."""
        self._broker.prepare()
        with (self._home / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._broker.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                preexec_fn=_end_with_parent,
            )
        until(self._answers, within=START_WITHIN_S, what=f"the broker at {self.bootstrap_servers} answers")

    def stop(self) -> None:
        """SIGTERM: a clean end, in a second or two."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL. Usable again about 5 s after the next `start`."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        if self._own_home:
            shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(STOP_WITHIN_S)
            self._process = None

    def _answers(self) -> bool:
        from penstock.stack.kafka import topics

        if self._process is not None and self._process.poll() is not None:
            said = (self._home / "broker.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the broker ended with {self._process.returncode}: {said}")
        return topics(self.bootstrap_servers, 1.0) is not None


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on, each another one."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
