"""A network namespace beyond a line of its own (veth), on which packets vanish when it is cut: what TCP
knows of nothing, where a proxy would reset a connection or go on acknowledging. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Line:
    name: str
    here: str
    """This machine's address on the line."""
    there: str

    @property
    def beyond(self) -> Sequence[str]:
        """First words of a command that runs in the namespace."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        """Loses all packets, silently."""
        _ip("link", "set", self.name, "down")

    def mend(self) -> None:
        _ip("link", "set", self.name, "up")


@contextmanager
def line_or_skip() -> Iterator[Line]:
    """A namespace for the block. Skips the test, with the reason, where this machine makes none."""
    number = os.getpid() % (1 << 14)
    prefix = f"198.18.{number >> 6}.{(number & 63) << 2}"  # RFC 2544: of nobody's network
    start, _, last = prefix.rpartition(".")
    line = Line(f"penstock{number}", f"{start}.{int(last) + 1}", f"{start}.{int(last) + 2}")
    try:
        _make(line)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine makes no network namespace: {getattr(error, 'stderr', error)}")
    try:
        yield line
    finally:
        _ip("netns", "delete", line.name)  # the line goes with it


def _make(line: Line) -> None:
    _ip("netns", "add", line.name)
    try:
        _ip("link", "add", line.name, "type", "veth", "peer", "name", "hub", "netns", line.name)
        _ip("address", "add", f"{line.here}/30", "dev", line.name)
        _ip("link", "set", line.name, "up")
        _ip("-n", line.name, "address", "add", f"{line.there}/30", "dev", "hub")
        _ip("-n", line.name, "link", "set", "hub", "up")
    except BaseException:
        _ip("netns", "delete", line.name)
        raise


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
