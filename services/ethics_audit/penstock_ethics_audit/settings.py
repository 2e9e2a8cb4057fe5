"""`PENSTOCK_ETHICS_AUDIT__…`."""

from __future__ import annotations

from pydantic import Field

from penstock.runtime.settings import ServiceSettings, service_config


class Settings(ServiceSettings):
    model_config = service_config("ethics_audit")

    parallel: int = Field(default=1, ge=1)
    """Audits at a time; each is a process of about 400 MB."""
