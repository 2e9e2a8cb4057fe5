"""`python -m penstock_model_registry`"""

from __future__ import annotations

import asyncio

from penstock_model_registry.app import run
from penstock_model_registry.settings import Settings

if __name__ == "__main__":
    asyncio.run(run(Settings()))
