"""Settings: one frozen object a service, read from the environment once, at start. Nothing else
reads the environment.
"""

from __future__ import annotations

import difflib
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock.contracts.connection import FURTHER_SECURITY
from penstock.contracts.connection import KafkaSettings as KafkaSettings
from penstock.contracts.errors import Invalid
from penstock.contracts.services import SERVICES
from penstock.runtime import ports
from penstock.runtime.artifacts import checked_roots, divided

if TYPE_CHECKING:
    from sqlalchemy import URL

S = TypeVar("S")


class Platform(BaseSettings):
    """Settings that all services of one installation share: `PENSTOCK_HOME`, `PENSTOCK_KAFKA__…`,
    `PENSTOCK_PEERS__…`.
    """

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    home: Path = Path(".penstock")
    kafka: KafkaSettings = KafkaSettings()
    endpoint: str = f"127.0.0.1:{ports.DOOR}"  # the front door
    # URI of the artifact store, file:///folder or s3://bucket/prefix; by default a folder in `home`.
    # Behind commas those where artifacts lay before; that in `home` is always among them.
    # Where S3 is and who asks it say the AWS variables: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION,
    # AWS_SHARED_CREDENTIALS_FILE.
    artifacts: str = ""
    # Addresses of services that are not at their default port: {"feature_store": "127.0.0.1:9182"}.
    peers: dict[str, str] = Field(default_factory=dict)
    # Folder of a service's own private key when that is not beside the trust store in `keys`.
    private_keys_dir: Path | None = None
    log_level: str = "INFO"

    @field_validator("artifacts")
    @classmethod
    def _artifacts_are_somewhere(cls, artifacts: str) -> str:
        return artifacts and checked_roots(artifacts, where="PENSTOCK_ARTIFACTS")

    @property
    def artifact_roots(self) -> str:
        """Roots as `Artifacts` takes them."""
        own = f"file://{self.home.resolve()}/artifacts"
        named = divided(self.artifacts) if self.artifacts else []
        return ",".join(named if own in named else [*named, own])

    @property
    def keys(self) -> Path:
        """The trust store's folder."""
        return self.home / "keys"

    @property
    def private_keys(self) -> Path:
        return self.private_keys_dir or self.keys

    def peer(self, service: str) -> str:
        """host:port of another service."""
        return self.peers.get(service) or f"127.0.0.1:{SERVICES[service].port}"


class OpenTelemetry(BaseSettings):
    """OpenTelemetry's own names, `OTEL_…`; its SDK reads more of them itself."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True, extra="ignore")

    # The collector's, as in http://127.0.0.1:4317 (gRPC). Empty: nothing is exported.
    exporter_otlp_endpoint: str = ""
    metric_export_interval: float = Field(default=15_000, gt=0)  # milliseconds


def service_config(service: str) -> SettingsConfigDict:
    """The settings of one service read `PENSTOCK_<SERVICE>__…`."""
    return SettingsConfigDict(
        env_prefix=f"PENSTOCK_{service.upper()}__", env_nested_delimiter="__", frozen=True, extra="forbid"
    )


class ServiceSettings(BaseSettings):
    """Base of each service's settings: `class Settings(ServiceSettings): model_config =
    service_config("ingest")`.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)  # 0: the service's default port
    # Names this replica: its transactional ids and its leases. Two replicas must differ, and each keep
    # its name over restarts. `hostname`: as the machine or container is called.
    replica: str = "0"
    # SQLAlchemy URL without a password: postgresql+psycopg://user@host:5432/database; by default SQLite
    # in `data_dir`.
    database: str | None = None
    database_password_file: Path | None = None  # holds the password of `database`, and nothing else
    platform: Platform = Field(default_factory=Platform)

    @field_validator("replica")
    @classmethod
    def _named_by_its_host(cls, replica: str) -> str:
        return socket.gethostname() if replica == "hostname" else replica

    @property
    def _prefix(self) -> str:
        return self.model_config.get("env_prefix") or ""

    @property
    def service(self) -> str:
        return self._prefix.removeprefix("PENSTOCK_").removesuffix("__").lower()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port or SERVICES[self.service].port}"

    @property
    def data_dir(self) -> Path:
        """Folder of this service's own files; made when asked for."""
        path = self.platform.home.resolve() / self.service
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def traces(self) -> Path:
        return self.platform.home.resolve() / "traces"

    @property
    def log_level(self) -> str:
        return self.platform.log_level

    @property
    def database_url(self) -> URL:
        """URL of the database with its password, which its `str` and `repr` do not show."""
        return self.with_password(self.database or f"sqlite:///{self.data_dir / f'{self.service}.db'}")

    def with_password(self, url: str, setting: str = "database") -> URL:
        """Raises Invalid that names the setting which holds `url`."""
        # A job's child reads settings and opens no database: SQLAlchemy is half of its imports.
        from penstock.runtime.database import with_password

        return with_password(url, self.database_password_file, where=f"{self._prefix}{setting.upper()}")

    @model_validator(mode="after")
    def _names_and_database_are_right(self) -> Self:
        check_names(os.environ, self._prefix, sorted(set(type(self).model_fields) - {"platform"}))
        check_names(os.environ, "PENSTOCK_KAFKA__", sorted({*KafkaSettings.model_fields, *FURTHER_SECURITY}))
        if self.database:
            self.with_password(self.database)
        return self


def read_or_exit(settings: Callable[[], S]) -> S:
    """The settings. One that is wrong ends the process with a sentence."""
    try:
        return settings()
    except Invalid as error:
        sys.exit(str(error))
    except ValidationError as error:
        wrong = ((".".join(map(str, one["loc"])), one["msg"]) for one in error.errors(include_url=False))
        sys.exit("; ".join(f"setting {name}: {why}" for name, why in wrong))


def check_names(environment: Mapping[str, str], prefix: str, known: list[str]) -> None:
    """Raises Invalid for a variable that has the prefix and names nothing."""
    for variable in environment:
        name = variable[len(prefix) :].lower().split("__")[0]
        if prefix and variable.upper().startswith(prefix) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = (
                f"Did you mean {prefix}{near[0].upper()}?"
                if near
                else f"Known: {', '.join(prefix + k.upper() for k in known)}"
            )
            raise Invalid("no setting has this name", where=variable, remedy=meant)


LOCAL_RAY = "local"


class RaySettings(ServiceSettings):
    """Settings of a service whose jobs may run on Ray."""

    ray: str | None = None
    """Work is spread over the Ray cluster of this address, by default that of RAY_ADDRESS; `local`: over
    one that each job starts on this machine. Without an address: over processes of the service's own.
    """

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster, or LOCAL_RAY; None without Ray."""
        return self.ray or os.environ.get("RAY_ADDRESS") or None

    def jobs_at_once(self, parallel: int) -> int:
        """`parallel`; one where each job starts Ray on this machine, as it ends the Ray of others."""
        return 1 if self.cluster == LOCAL_RAY else parallel
