"""Type of a column, its range, its values: what ingest may hold the data to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Literal

from penstock.client.declared import moment, text_of
from penstock.client.guess.amounts import marked
from penstock.client.guess.table import Column
from penstock.client.guess.times import unread
from penstock.contracts.dataplane import MAX_NUMBER

Type = Literal["number", "category", "text", "boolean", "time"]
FEW = 20
"""Values that are listed."""
_MAX_CATEGORIES = 50
_WORDS_OF_A_TEXT = 3
_SMALLEST = 1e-30
_ROOM = 10  # a range reaches so many times further than the sample


@dataclass(frozen=True)
class Kind:
    type: Type
    range: tuple[float, float] | None = None
    values: tuple[str, ...] | None = None
    unread: str = ""
    """Sentence on times or numbers in a form that is not read."""


def kind_of(column: Column, *, listed: bool) -> Kind:
    """Guesses by the values alone. `listed`: the sample is all there is, so that few values may be
    named as the only ones.
    """
    texts = column.counts
    if not texts:
        return Kind("category")
    if all(
        isinstance(value, bool) or text_of(value).lower() in ("true", "false") for value in column.present
    ):
        return Kind("boolean")
    if column.numbers is not None and not column.zero_padded:
        return Kind("number", _range(column.numbers))
    if is_time(column, seconds=False):
        return Kind("time")
    if why := unread(column.present):
        return Kind("time", unread=why)
    if why := marked(texts):
        return Kind("text", unread=why)
    many = fmean(len(text.split()) for text in list(texts)[:1000]) > _WORDS_OF_A_TEXT
    repeated = len(texts) <= len(column.present) / 2
    if (len(texts) <= _MAX_CATEGORIES and (repeated or not many)) or (repeated and not many):
        few = listed and repeated and len(texts) <= FEW and min(texts.values()) > 1
        return Kind("category", values=tuple(sorted(texts)) if few else None)
    return Kind("text" if many else "category" if len(texts) < 0.9 * len(column.present) else "text")


def as_codes(column: Column) -> Kind:
    """A column of few whole numbers, or of two values, that name something."""
    values = sorted(column.counts, key=lambda text: (len(text), text))
    return Kind("category", values=tuple(values) if len(values) <= FEW else None)


def is_time(column: Column, *, seconds: bool) -> bool:
    """Tells whether each value is a day or a time; `seconds`: those since 1970, too."""
    return bool(column.present) and all(_parses(value, seconds=seconds) for value in column.present[:200])


def _parses(value: object, *, seconds: bool) -> bool:
    if isinstance(value, bool):
        return False
    text = text_of(value)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return seconds and isinstance(moment(text), int | float)
    return len(text) >= len("2026-01-31")


def _range(numbers: list[float]) -> tuple[float, float] | None:
    """Room for what the sample does not show: ten times as far, to a round number; from 0 where no
    value is negative. None for magnitudes that no round number is near.
    """
    if set(numbers) <= {0, 1}:
        return (0.0, 1.0)
    furthest = max(map(abs, numbers)) * _ROOM
    if not _SMALLEST < furthest < MAX_NUMBER:
        return None
    scale = 10.0 ** math.floor(math.log10(furthest))
    high = next(step * scale for step in (1, 2, 5, 10) if step * scale >= furthest)
    return (0.0 if min(numbers) >= 0 else -high, high)
