"""`PENSTOCK_TUNER__…`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.runtime.settings import RaySettings, service_config


class Settings(RaySettings):
    model_config = service_config("tuner")

    parallel: int = Field(default=2, ge=1)
    """Studies at a time."""
    training_set_timeout: float = Field(default=600.0, gt=0)
    """Seconds for the feature store to put a study's training set together, its wait for the newest
    events included.
    """

    @property
    def at_once(self) -> int:
        """Studies at a time."""
        return self.jobs_at_once(self.parallel)

    @property
    def studies_dir(self) -> Path:
        """Fetched splits and prepared arrays, one folder a study, until it ends."""
        return self.data_dir / "studies"
