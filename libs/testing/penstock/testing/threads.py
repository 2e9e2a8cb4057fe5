"""A store's blocking side for tests on an event loop, which may be held up as no service's may."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_a_thread(manager: AbstractContextManager[T]) -> Iterator[T]:
    """Enters and leaves `store.transaction()` or `store.snapshot()` in another thread. Blocks."""
    with ThreadPoolExecutor(1) as thread:
        entered = thread.submit(manager.__enter__).result()
        try:
            yield entered
        except BaseException as error:
            thread.submit(manager.__exit__, type(error), error, error.__traceback__).result()
            raise
        thread.submit(manager.__exit__, None, None, None).result()
