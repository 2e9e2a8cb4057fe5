"""`PENSTOCK_TUNER__…`."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from penstock.runtime.settings import ServiceSettings, service_config

LOCAL = "local"


class Settings(ServiceSettings):
    model_config = service_config("tuner")

    parallel: int = Field(default=2, ge=1)
    """Studies at a time."""
    training_set_timeout: float = Field(default=600.0, gt=0)
    """Seconds for the feature store to put a study's training set together, its wait for the newest
    events included.
    """

    ray: str | None = None
    """Trials run on the Ray cluster of this address, by default that of RAY_ADDRESS; `local`: on one
    that each study starts on this machine. Without an address: in processes of the tuner's own.
    """

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster that trials run on, or LOCAL; None without Ray."""
        return self.ray or os.environ.get("RAY_ADDRESS") or None

    @property
    def at_once(self) -> int:
        """Studies at a time: one where each starts Ray on this machine, as it ends the Ray of others."""
        return 1 if self.cluster == LOCAL else self.parallel

    @property
    def studies_dir(self) -> Path:
        """Fetched splits and prepared arrays, one folder a study, until it ends."""
        return self.data_dir / "studies"
