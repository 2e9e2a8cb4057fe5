"""Settings of a site: `PENSTOCK_SITE__…`. A site has a folder of its own and shares nothing else."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings

from penstock.contracts.durations import parse_duration
from penstock.runtime import ports
from penstock.runtime.settings import Platform, check_names, service_config
from penstock_edge_gateway.site.trial import Bounds

HTTP_PORT = 9196
Duration = Annotated[timedelta, BeforeValidator(parse_duration)]  # `30d`, `12h`


class TrialSettings(BaseModel):
    """Bounds on a version's first calls, beyond which the one before it serves again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int = Field(default=500, ge=1)
    errors: float = Field(default=0.01, ge=0, lt=1)  # share of calls on which the graph fails
    p99_ms: float = Field(default=250.0, gt=0)  # milliseconds that a row takes


class Settings(BaseSettings):
    model_config = service_config("site")

    # Folder of all that the site keeps, by default in PENSTOCK_HOME.
    home: Path = Field(default_factory=lambda: Platform().home / "site")
    host: str = "127.0.0.1"
    port: int = Field(default=ports.SITE, ge=0, le=65535)  # gRPC
    http_port: int = Field(default=HTTP_PORT, ge=0, le=65535)
    replica: str = "0"
    log_level: str = "INFO"
    spool_size: ByteSize = ByteSize(2 << 30)  # of each lane, events and predictions: 2GiB, 500MB
    forward_rate: ByteSize = ByteSize(0)  # a second, of each lane before it is compressed; 0: no bound
    spool_age: Duration = timedelta(days=30)  # longest time that a lane waits for the hub
    trial: TrialSettings = TrialSettings()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def data_dir(self) -> Path:
        """The site's folder, for its user alone; made when asked for."""
        path = self.home.resolve()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    @property
    def traces(self) -> Path:
        return self.data_dir / "traces"

    @property
    def keys(self) -> Path:
        """Folder of the trust store."""
        return self.data_dir / "keys"

    @property
    def bounds(self) -> Bounds:
        return Bounds(**self.trial.model_dump())

    @model_validator(mode="after")
    def _names_are_right(self) -> Self:
        check_names(os.environ, "PENSTOCK_SITE__", sorted(type(self).model_fields))
        return self
