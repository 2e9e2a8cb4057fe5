"""Layout of a model version's tensors: which feature each column holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Features of one version, in the order of its tensors' columns."""

    digest: str
    generation: int
    numbers: tuple[str, ...]
    strings: tuple[str, ...]
    booleans: frozenset[str] = frozenset()
    """Members of `strings` that hold "true" or "false"."""


Layouts = Callable[[str, int | None], Layout | None]
"""Layout by pipeline and generation; without a generation, that of the version that is served. None
for a pipeline that never served.
"""
