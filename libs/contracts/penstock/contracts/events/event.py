"""Base classes of control events and of their parts."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """`extra` is ignored when reading: within v1 a newer producer may add optional fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Event(Frozen):
    """One event. Its class names the topic, and the Kafka key by the event's fields:
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
