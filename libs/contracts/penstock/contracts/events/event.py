"""Base classes of control events and of their parts, and the types of their fields.

The types bound what an event may hold by what every later layer can: columns of SQLite and
PostgreSQL, protobuf's numbers and timestamps. What is beyond is no event.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


def _in_time(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:  # in UTC it may be in no year that there is
        raise ValueError("must be between 1970 and 9999, in UTC")
    return moment


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


Number = Annotated[int, Field(ge=0, le=2**31 - 1)]  # of a pipeline, a generation, an epoch, a partition
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]  # of rows or bytes; an offset
Moment = Annotated[AwareDatetime, AfterValidator(_in_time)]
_Id = Annotated[str, AfterValidator(_without_nul)]
PipelineName = Annotated[_Id, Field(max_length=63)]
RunId = Annotated[_Id, Field(max_length=128)]
AuditId = Annotated[_Id, Field(max_length=32)]
Digest = Annotated[_Id, Field(max_length=71)]  # `sha256:` and 64 hex digits
Person = Annotated[_Id, Field(max_length=256)]  # a typed name, not an identity


class Frozen(BaseModel):
    """`extra` is ignored when reading: within v1 a newer producer may add optional fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Event(Frozen):
    """Event of the platform. Its class names the topic, and the Kafka key by the event's fields:
    `class PipelineApplied(Event, topic="pipelines.v1", key="{pipeline}")`.
    """

    topic: ClassVar[str]
    _key: ClassVar[str]

    def __init_subclass__(cls, *, topic: str = "", key: str = "", **config: Any) -> None:
        super().__init_subclass__(**config)
        if topic:
            cls.topic, cls._key = topic, key

    @property
    def key(self) -> str:
        """The Kafka key: what the event is about; on a compacted topic, whose whole state it holds."""
        return self._key.format_map(vars(self))

    @classmethod
    def ce_type(cls) -> str:
        """CloudEvents type."""
        return f"io.penstock.{cls.__name__}.v1"
