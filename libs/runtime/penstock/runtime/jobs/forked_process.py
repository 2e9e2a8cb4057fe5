"""A copy of a fork server, seen without an event loop: what it says, what it holds, its end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.contracts.events import Cost
from penstock.runtime.child import LONGEST_TEXT
from penstock.runtime.jobs.fork_server import ForkServer

LAST_LINES = 20  # of its output, that are kept to say how it died
CHUNK = 1 << 16  # bytes of one read
CHUNKS = 16  # that are read at once, and kept of a line that does not end


class Pipe:
    """The reading end of a pipe, by lines, without waiting."""

    def __init__(self) -> None:
        self.fd, self.writer = os.pipe()
        os.set_blocking(self.fd, False)
        self._begun = b""
        self.ended = False

    def close_writer(self) -> None:
        os.close(self.writer)

    def lines(self) -> list[str]:
        """Whole lines that have come. Of a process that writes without an end some, and the rest later."""
        for _ in range(CHUNKS):
            if self.ended:
                break
            try:
                chunk = os.read(self.fd, CHUNK)
            except BlockingIOError:
                break
            self._begun += chunk
            self.ended = not chunk
        *whole, begun = self._begun.split(b"\n")
        self._begun = begun[-CHUNKS * CHUNK :]
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        os.close(self.fd)


class ForkedProcess:
    """Child process, from its order to its end."""

    def __init__(self) -> None:
        self.messages, self.errors, self.status = Pipe(), Pipe(), Pipe()
        self.heard_at = time.monotonic()
        self.code: int | None = None
        self.cost = Cost()
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._pid: int | None = None
        self._killed = False

    def start(self, server: ForkServer, request: Mapping[str, Any], load: Iterable[str] = ()) -> None:
        """Orders it; `load` as in `ForkServer.fork`. Raises OSError; it is closed then."""
        try:
            server.fork(request, *(pipe.writer for pipe in self.pipes), load=load)
        except BaseException:
            self.close()
            raise
        finally:
            for pipe in self.pipes:
                pipe.close_writer()

    @property
    def pipes(self) -> tuple[Pipe, Pipe, Pipe]:
        return self.messages, self.errors, self.status

    @property
    def gone(self) -> bool:
        return self.status.ended

    @property
    def runs(self) -> bool:
        """True while there is a process that has not been waited for."""
        return self._pid is not None and not self.gone

    def follow(self) -> list[dict[str, Any]]:
        """Reads all that has come; what the process said, in order."""
        for line in self.status.lines():
            told = json.loads(line)
            if "pid" in told:
                self._pid, self.heard_at = told["pid"], time.monotonic()
                if self._killed:
                    self.kill()
            else:
                self.code, self.cost = told["code"], Cost.model_validate(told["cost"])
        # They become a reason: PostgreSQL stores no NUL, and Kafka takes no event of over 1 MiB.
        self.last_lines.extend(line[:LONGEST_TEXT].replace("\0", "\ufffd") for line in self.errors.lines())
        said = []
        for line in self.messages.lines():
            self.heard_at = time.monotonic()
            with suppress(ValueError):  # cut short by its end
                said.append(json.loads(line))
        return said

    def own_memory(self) -> int:
        """Bytes that the process holds and no file does; 0 where it is not known."""
        if self._pid is None:
            return 0
        with suppress(OSError, ValueError):
            for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        return 0

    def kill(self) -> None:
        """Kills it with all that it started."""
        self._killed = True
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        for pipe in self.pipes:
            pipe.close()
