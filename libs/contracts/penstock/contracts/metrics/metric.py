"""A metric as data: its name, unit, attributes, services and buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.contracts.services import PLATFORM

SERVICES = tuple(PLATFORM)
STORING = tuple(name for name, service in PLATFORM.items() if service.database)
WORKING = tuple(name for name, service in PLATFORM.items() if service.jobs)
CONSUMING = tuple(name for name, service in PLATFORM.items() if service.consumer_group)

# Buckets of what somebody waits for, of what is on its way from one service to the next, of long work.
CALL_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
DELAY_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
WORK_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)


@dataclass(frozen=True)
class Metric:
    """An instrument. `buckets`: upper bounds of a histogram's. `shared`: each replica tells of the
    database that they share, so the largest counts, not the sum.
    """

    name: str
    kind: Literal["counter", "updowncounter", "gauge", "histogram"]
    unit: str
    about: str
    attributes: tuple[str, ...] = ()
    services: tuple[str, ...] = SERVICES
    buckets: tuple[float, ...] = ()
    shared: bool = False

    @property
    def prometheus(self) -> str:
        """Name in Prometheus (a histogram's without `_bucket`, `_sum`, `_count`), as its OTLP
        receiver translates it.
        """
        unit = {"s": "seconds", "By": "bytes"}.get(self.unit)
        total = "total" if self.kind == "counter" else None
        return "_".join(filter(None, [*self.name.split("."), unit, total]))

    @property
    def series(self) -> tuple[str, ...]:
        """The names that it has there."""
        parts = ("_bucket", "_sum", "_count") if self.buckets else ("",)
        return tuple(self.prometheus + part for part in parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Attributes as Prometheus' labels; besides them each series has `job`
        (`penstock.<service>`) and `instance` (the replica).
        """
        return tuple(attribute.replace(".", "_") for attribute in self.attributes)
