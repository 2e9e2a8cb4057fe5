"""`PENSTOCK_TRAINER__…`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from penstock.runtime.settings import RaySettings, service_config


class Settings(RaySettings):
    model_config = service_config("trainer")

    parallel: int = Field(default=1, ge=1)
    """Runs at a time; one on a Ray that each starts on this machine."""
    training_set_timeout: float = Field(default=600.0, gt=0)
    """Seconds for the feature store to put a training set together, its wait for the newest events
    included.
    """

    tracking: str | None = None
    """URL of MLflow's store, without a password: that of `database_password_file` counts. By
    default SQLite in PENSTOCK_HOME.
    """

    @model_validator(mode="after")
    def _tracking_can_be_asked(self) -> Self:
        if self.tracking:
            self.with_password(self.tracking, "tracking")
        return self

    @property
    def tracking_uri(self) -> str:
        """MLflow's store, without a password; `mlflow ui --backend-store-uri …` opens it."""
        if self.tracking:
            return self.tracking
        folder = self.platform.home.resolve() / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / 'mlflow.db'}"

    @property
    def tracking_password(self) -> str | None:
        return self.with_password(self.tracking, "tracking").password if self.tracking else None

    @property
    def at_once(self) -> int:
        """Runs at a time."""
        return self.jobs_at_once(self.parallel)

    @property
    def tensorboard_dir(self) -> Path:
        """Event files for TensorBoard, by pipeline and run, or study and trial. In the service's own
        folder: a container may write nowhere else.
        """
        return self.data_dir / "tensorboard"

    @property
    def runs_dir(self) -> Path:
        """Fetched splits, checkpoint and package, one folder a run, until it ends."""
        return self.data_dir / "runs"
