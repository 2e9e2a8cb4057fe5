"""python -m penstock_ethics_audit"""

from __future__ import annotations

import asyncio

from penstock_ethics_audit.app import run
from penstock_ethics_audit.settings import Settings

if __name__ == "__main__":
    asyncio.run(run(Settings()))
