"""How to reach Kafka: one vocabulary for services and for clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from penstock.contracts.errors import Invalid


class KafkaSettings(BaseModel):
    """How to reach Kafka. The security settings carry librdkafka's names, with `_` for `.`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    replication: int = Field(default=1, ge=1)
    """Of the topics that a service creates."""
    security_protocol: str | None = None
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    """A file that holds the password and nothing else, instead of `sasl_password`; read for each new client."""
    ssl_ca_location: str | None = None
    ssl_certificate_location: str | None = None
    ssl_key_location: str | None = None
    ssl_key_password: SecretStr | None = None

    _security: ClassVar = (
        "security_protocol",
        "sasl_mechanism",
        "sasl_username",
        "sasl_password",
        "ssl_ca_location",
        "ssl_certificate_location",
        "ssl_key_location",
        "ssl_key_password",
    )
    _kafka_python: ClassVar = {
        "sasl_username": "sasl_plain_username",
        "sasl_password": "sasl_plain_password",
        "ssl_ca_location": "ssl_cafile",
        "ssl_certificate_location": "ssl_certfile",
        "ssl_key_location": "ssl_keyfile",
        "ssl_key_password": "ssl_password",
    }

    def client(self, **overrides: Any) -> dict[str, Any]:
        """librdkafka's configuration: where, security, a quick return after an outage. Overrides use `_` for `.`."""
        base = {
            "bootstrap.servers": self.bootstrap_servers,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "socket.keepalive.enable": True,
            # Known brokers are connected to again, with back-off. By default librdkafka begins anew from the bootstrap servers whenever all
            # are down: 40 connections a second from each client, and a transaction may wait for ever for its coordinator (issue 5511).
            "metadata.recovery.strategy": "none",
        }
        security = {name.replace("_", "."): value for name, value in self._chosen_security()}
        return base | security | {name.replace("_", "."): value for name, value in overrides.items()}

    def admin(self) -> dict[str, Any]:
        """kafka-python's keyword arguments."""
        security = {self._kafka_python.get(name, name): value for name, value in self._chosen_security()}
        return {"bootstrap_servers": self.bootstrap_servers.split(","), **security}

    def topic(self, name: str) -> str:
        """The catalogue's name with this installation's prefix."""
        return self.topic_prefix + name

    def _chosen_security(self) -> list[tuple[str, str]]:
        given = {name: getattr(self, name) for name in self._security}
        if self.sasl_password_file:
            given["sasl_password"] = _password(self.sasl_password_file)
        chosen = [(name, value) for name, value in given.items() if value is not None]
        return [(name, value.get_secret_value() if isinstance(value, SecretStr) else value) for name, value in chosen]


def _password(file: Path) -> str:
    try:
        password = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"Kafka's password cannot be read: {error}", where=str(file)) from error
    if not password:
        raise Invalid("Kafka's password file is empty", where=str(file))
    return password
