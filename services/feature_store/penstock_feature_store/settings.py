"""`PENSTOCK_FEATURE_STORE__…`."""

from __future__ import annotations

from pydantic import Field

from penstock.runtime.settings import ServiceSettings, service_config


class Settings(ServiceSettings):
    model_config = service_config("feature_store")

    batch: int = Field(default=10_000, ge=1, le=100_000)
    """The most records in one file of the lake."""
    linger_s: float = Field(default=0.4, ge=0, le=10)
    """How long to gather more after the first record: a file a partition at most this often, and how much later a record is seen."""
