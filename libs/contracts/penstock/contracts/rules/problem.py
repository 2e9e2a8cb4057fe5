"""Problems of a pipeline, and the sentences that state them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import Path, Place, own_fields


@dataclass(frozen=True)
class Problem:
    path: Path
    message: str


def failing(*checks: tuple[object, Path, str]) -> Iterator[Problem]:
    """Problems of a table of checks, each (what is wrong where it is true, the key's path, a sentence)."""
    return (Problem(path, sentence) for wrong, path, sentence in checks if wrong)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or what there is, or nothing."""
    names = list(known)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"; did you mean `{near[0]}`?"
    return f"; there is {', '.join(f'`{n}`' for n in names[:12])}" if names else ""


def unknown_key(place: Place) -> str:
    """A sentence on a key that may not stand where it does, with the nearest that may."""
    name = str(place.path[-1])
    known = own_fields(place.model) if place.model else ()
    return f"{place.foreign() or f'no key `{name}`'}{nearest(name, known)}"


def unknown_reference(pipeline: Pipeline, reference: str) -> str | None:
    """A sentence on a `source.field` that is not there; None where it is."""
    known = [f"{name}.{field}" for name, source in pipeline.sources.items() for field in source.fields]
    return None if reference in known else f"no field `{reference}`{nearest(reference, known)}"
