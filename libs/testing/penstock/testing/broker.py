"""A real broker for the tests: the embedded stack's own Kafka in a directory of its own, which a
test may kill and start again.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.runtime.forking import tie_to
from penstock.runtime.settings import KafkaSettings
from penstock.stack.kafka import Broker, topics
from penstock.testing.wait import until

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

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
        port, controller = free_ports(2)
        self._broker = Broker(self._home, port, controller)
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
                preexec_fn=partial(tie_to, os.getpid()),
            )
        until(self._answers, within=START_WITHIN_S, what=f"the broker at {self.bootstrap_servers} answers")

    def stop(self) -> None:
        """SIGTERM: a clean end, in a second or two."""
        self._process.terminate()
        self._process.wait(STOP_WITHIN_S)

    def kill(self) -> None:
        """SIGKILL. Usable again about 5 s after the next `start`."""
        self._process.kill()
        self._process.wait(STOP_WITHIN_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            said = (self._home / "broker.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the broker ended with {self._process.returncode}: {said}")
        return topics(self.bootstrap_servers, 1.0) is not None


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on, each another one."""
    with ExitStack() as opened:
        probes = [opened.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
