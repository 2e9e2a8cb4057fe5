"""`python -m penstock_ingest`"""

from __future__ import annotations

import asyncio

from penstock_ingest.app import run
from penstock_ingest.settings import Settings

if __name__ == "__main__":
    asyncio.run(run(Settings()))
