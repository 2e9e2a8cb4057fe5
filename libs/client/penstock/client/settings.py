"""Addresses of the platform: arguments win over the environment, that over `$PENSTOCK_HOME/stack.json`,
that over the default ports.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from penstock.contracts.connection import KafkaSettings

DEFAULT_HOME = Path(".penstock")


class ClientSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    home: Path = DEFAULT_HOME
    endpoint: str = "127.0.0.1:9080"
    """host:port of the front door."""
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = {**env_settings(), **init_settings()}
        home = Path(given.get("home", DEFAULT_HOME))
        return init_settings, env_settings, _StackFile(settings_cls, home / "stack.json")


class StackAddresses(BaseModel):
    """The part of `stack.json` that a client reads; the embedded stack writes it when it comes up."""

    endpoint: str
    kafka: str


class _StackFile(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls)
        self._path = path

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        try:
            found = StackAddresses.model_validate(json.loads(self._path.read_text()))
        except (OSError, ValueError):
            return {}
        return {"endpoint": found.endpoint, "kafka": {"bootstrap_servers": found.kafka}}
