"""Ages of rows beside `training.max_age`: an older row trains, and answers for nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from penstock.client.declared import Row, moment
from penstock.contracts.durations import format_duration
from penstock.contracts.pipeline import Pipeline, Training

_YEAR = timedelta(days=365)
_LONGEST = timedelta(days=36_500)
_USUAL = Training().max_age


class Ages:
    """Count of rows, and of those that `max_age` lets answer for nobody today; to the day."""

    def __init__(self, max_age: timedelta, now: datetime) -> None:
        self._max_age, self._today, self._since = max_age, now.date(), (now - max_age).date()
        self._oldest, self._newest = date.max, date.min
        self.rows = self.older = 0

    def add(self, value: object) -> None:
        """Counts a row by its time; what is no time counts as young."""
        self.rows += 1
        if day := _day(value):
            self._oldest, self._newest = min(day, self._oldest), max(day, self._newest)
            self.older += day < self._since

    def of(self, rows: Iterable[Row | bytes], timestamp: str) -> Iterator[Row | bytes]:
        """Lets rows through and counts them; `timestamp` names the field of their time."""
        for row in rows:
            if not isinstance(row, bytes):
                self.add(row.get(timestamp))
            yield row

    @property
    def all_older(self) -> bool:
        return 0 < self.rows == self.older

    @property
    def said(self) -> str:
        """Sentence where most rows are older; else empty."""
        if 2 * self.older <= self.rows:
            return ""
        which = "all rows" if self.all_older else f"{self.older / self.rows:.0%} of the rows"
        return (
            f"{which} are older than `training.max_age`, {format_duration(self._max_age)} (the newest is of"
            f" {self._newest}): they train, but `predict --entity` answers from none of them"
        )

    @property
    def enough(self) -> str:
        """Duration with which all of them answer, a year from now too."""
        return format_duration(min(_LONGEST, ((self._today - self._oldest) // _YEAR + 2) * _YEAR))


def ages_of(values: Iterable[object], now: datetime) -> Ages:
    """Counts the times of a file's rows beside the usual `max_age`."""
    found = Ages(_USUAL, now)
    for value in values:
        found.add(moment(value))
    return found


def advice(ages: Ages, pipeline: Pipeline, source: str) -> Iterator[str]:
    """Says what lets rows of a source answer, where most are too old for it; of a source that gives no
    feature nothing.
    """
    asked = {one.source_field.partition(".")[0] for one in pipeline.resolved_features().values()}
    if ages.said and source in asked:
        yield f"{ages.said}; to let them, write `training: {{max_age: {ages.enough}}}` and apply the file"


def _day(value: object) -> date | None:
    """Day of a time as `declared.moment` gives it; None of what is none."""
    with suppress(ValueError, OverflowError, OSError):
        if isinstance(value, str):
            return date.fromisoformat(value[:10])
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC).date()
    return None
