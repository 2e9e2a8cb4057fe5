"""`python -m penstock_trainer`"""

from __future__ import annotations

import asyncio

from penstock_trainer.app import run
from penstock_trainer.settings import Settings

if __name__ == "__main__":
    asyncio.run(run(Settings()))
