"""Imports at the start of a process."""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Final

# FastStream, structlog and Mako load these where they are installed, a tenth of a service's start;
# no service calls them.
UNUSED: Final = frozenset({"email_validator", "pygments", "rich"})


@contextmanager
def loading(without: Collection[str] = UNUSED) -> Iterator[None]:
    """Imports within the block are not searched for garbage, then or later, and find no package of
    `without`.

    What modules make as they load stays. Python would go through it again and again: that was a
    quarter of a start, and a pause of each later search.
    """
    absent = _Absent(without)
    sys.meta_path.insert(0, absent)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.meta_path.remove(absent)


def do_without(names: Collection[str]) -> None:
    """Has no import find a package of `names`, for as long as this process lives.

    It is as if they were not installed: `find_spec` answers None, by which torch and others tell.
    None in `sys.modules` would do that too, but compiled modules as pyarrow's import it as the package.
    """

    class Installed(PathFinder):
        @classmethod
        def find_spec(
            cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            return None if fullname in names else super().find_spec(fullname, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Installed


class _Absent(MetaPathFinder):
    """Finder to which these packages are not installed."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"no service uses {fullname}", name=fullname)
