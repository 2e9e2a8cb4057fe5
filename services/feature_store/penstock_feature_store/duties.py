"""Background work of the replica that owns the lake: merging, trigger, retention, interrupted
erasures; and the look at a shared online store.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime

import structlog

from penstock.contracts.errors import Unavailable
from penstock.runtime.lifecycle import Service
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.lake.retention import expire
from penstock_feature_store.online.stores import OnlineStores
from penstock_feature_store.online.writer import OnlineWriter
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.training.trigger import Trigger

log = structlog.get_logger(__name__)

LOOK_AGAIN_S = 0.5
TRIGGER_EVERY_S = 10.0
"""Besides after every arrival: another replica may have heard of a run's end."""
RETENTION_EVERY_S = 3600.0
ERASE_AGAIN_S = 10.0
CHECK_EVERY_S = 2.0
"""Seconds between looks at the shared online store."""


def merge(lake: Lake, arrivals: Arrivals, stop: threading.Event) -> None:
    while not stop.is_set():
        count = arrivals.count
        for _, _, source in lake.opened():
            source.merge()
        while arrivals.count == count and not stop.is_set():
            arrivals.wait_blocking(count, LOOK_AGAIN_S)


async def watch(trigger: Trigger, arrivals: Arrivals) -> None:
    while True:
        count = arrivals.count
        await trigger.look()
        await arrivals.wait(count, timeout_s=TRIGGER_EVERY_S)


async def retain(pipelines: Pipelines, clock: Callable[[], datetime]) -> None:
    while True:
        await asyncio.sleep(RETENTION_EVERY_S)
        for held in pipelines.all():
            try:
                async with held.gate.alone():
                    await asyncio.to_thread(expire, held, clock())
            except Unavailable as error:
                log.warning("retention_waits", pipeline=held.pipeline.pipeline, why=str(error))


async def tell_trouble(service: Service, stores: OnlineStores, writer: OnlineWriter) -> None:
    """Tells readiness why the shared online store cannot be used, as long as it cannot."""
    while True:
        try:
            await asyncio.to_thread(stores.check)
            trouble = writer.trouble
        except Unavailable as error:
            trouble = error.message
        if trouble:
            service.waits_for("online store", trouble)
        else:
            service.has("online store")
        await asyncio.sleep(CHECK_EVERY_S)


async def erase_again(pipelines: Pipelines, erasures: Erasures) -> None:
    while True:
        await asyncio.sleep(ERASE_AGAIN_S)
        for path, name in await asyncio.to_thread(erasures.begun):
            for held in pipelines.all():
                if held.pipeline.pipeline == name:
                    await held.alone(erasures.finish, path)
