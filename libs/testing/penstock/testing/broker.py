"""A real broker for the tests: the embedded stack's own Kafka in a directory of its own, which a
test may kill and start again.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.runtime.forking import tie_to
from penstock.runtime.settings import KafkaSettings
from penstock.stack.kafka import Broker, topics
from penstock.testing.wait import until

START_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0

# Below the ports of stacks under test, and those that Linux gives to whoever asks for any.
FIRST_PORT, PORTS_EACH, WORKERS = 12_000, 1_000, 16


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
    """Ports of 127.0.0.1 that nothing listens on, each another one. Nobody takes one between this look
    and its use: the kernel gives none of them to whoever asks for any, and each worker has its own.
    """
    with ExitStack() as opened:
        return [next(port for port in _PORTS if _is_free(port, opened)) for _ in range(count)]


def _is_free(port: int, opened: ExitStack) -> bool:
    """Binds it for as long as `opened` lasts."""
    try:
        opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _ports_of_this_worker() -> Iterator[int]:
    """Begins where another run of the tests on this machine hardly does, and goes round."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    own = range(FIRST_PORT + worker * PORTS_EACH, FIRST_PORT + (worker + 1) * PORTS_EACH)
    start = os.getpid() % PORTS_EACH
    return cycle([*own[start:], *own[:start]])


_PORTS = _ports_of_this_worker()
