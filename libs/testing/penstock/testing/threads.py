"""Blocking work in threads, beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_a_thread(manager: AbstractContextManager[T]) -> Iterator[T]:
    """Enters and leaves `store.transaction()` or `store.snapshot()` in another thread. Blocks: for
    tests on an event loop, which may be held up as no service's may.
    """
    with ThreadPoolExecutor(1) as thread:
        entered = thread.submit(manager.__enter__).result()
        try:
            yield entered
        except BaseException as error:
            thread.submit(manager.__exit__, type(error), error, error.__traceback__).result()
            raise
        thread.submit(manager.__exit__, None, None, None).result()


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs `work` in a thread while inside; it returns once the event is set."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
