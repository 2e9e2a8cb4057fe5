"""`PENSTOCK_INGEST__…`."""

from pydantic import Field

from penstock.runtime.kafka.group import BATCH
from penstock.runtime.settings import ServiceSettings, service_config


class Settings(ServiceSettings):
    model_config = service_config("ingest")

    seen_capacity: int = Field(default=2_000_000, ge=1)
    """Ids remembered in each events partition, 16 bytes each in memory. Beyond it the oldest are
    forgotten, and counted.
    """
    batch: int = Field(default=BATCH, ge=1, le=50_000)
    """The most events in one transaction."""
