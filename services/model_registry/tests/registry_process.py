"""The registry as a process that kills itself at a chosen point of publishing: `python
registry_process.py before|after|never EVENT`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import NoReturn

from penstock.runtime.broker import ControlPlane
from penstock.runtime.tables import OutboxRow
from penstock_model_registry.app import run
from penstock_model_registry.settings import Settings

MOMENT, EVENT = sys.argv[1:]
_publish = ControlPlane.publish_row


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def publish_row(self: ControlPlane, row: OutboxRow) -> None:
    chosen = EVENT in row.event_type
    if chosen and MOMENT == "before":
        die()
    await _publish(self, row)
    if chosen and MOMENT == "after":
        die()


if __name__ == "__main__":
    ControlPlane.publish_row = publish_row  # type: ignore[method-assign]
    asyncio.run(run(Settings()))
