"""Imports at the start of a process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Imports within the block are not searched for garbage, then or later.

    What modules make as they load stays. Python would go through it again and again: that was a
    quarter of a start, and a pause of each later search.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
