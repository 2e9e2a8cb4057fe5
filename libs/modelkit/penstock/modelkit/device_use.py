"""Use that training steps make of a GPU, by events in its stream, which nothing waits for. Of a core
there is nothing to tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

OPEN = 256  # steps that may not have ended yet; events are kept of so many


class Use(NamedTuple):
    """Seconds in which a step was under way on the GPU, and the most bytes that tensors took there."""

    seconds: float = 0.0
    most: int = 0


class DeviceUse:
    """Adds up the steps on one processor."""

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._open = deque[tuple[torch.cuda.Event, torch.cuda.Event]]()
        self._ms = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Counts what is asked of the processor within the block."""
        if self._place.type != "cuda":
            yield
            return
        began, ended = _moment(), _moment()
        began.record()
        yield
        ended.record()
        self._open.append((began, ended))
        if len(self._open) > OPEN:
            self._end()

    def taken(self) -> Use:
        """The use since it was last asked for. Waits until all steps have ended."""
        if self._place.type != "cuda":
            return Use()
        while self._open:
            self._end()
        used, self._ms = Use(self._ms / 1e3, torch.cuda.max_memory_allocated(self._place)), 0.0
        torch.cuda.reset_peak_memory_stats(self._place)
        return used

    def _end(self) -> None:
        """Adds the oldest step, once it has ended."""
        began, ended = self._open.popleft()
        ended.synchronize()
        self._ms += began.elapsed_time(ended)


def _moment() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
