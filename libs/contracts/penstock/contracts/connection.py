"""Settings to reach Kafka: one vocabulary for services and for clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from penstock.contracts.errors import Invalid
from penstock.contracts.rules import nearest

SCRAM: Final = "SCRAM-SHA-256"
"""SASL mechanism of our own Kafka's users."""

FURTHER_SECURITY = frozenset(
    {
        "enable_ssl_certificate_verification",
        "https_ca_location",
        "https_ca_pem",
        "ssl_ca_pem",
        "ssl_certificate_pem",
        "ssl_cipher_suites",
        "ssl_crl_location",
        "ssl_curves_list",
        "ssl_endpoint_identification_algorithm",
        "ssl_engine_id",
        "ssl_engine_location",
        "ssl_key_pem",
        "ssl_keystore_location",
        "ssl_keystore_password",
        "ssl_providers",
        "ssl_sigalgs_list",
        "enable_sasl_oauthbearer_unsecure_jwt",
        "sasl_kerberos_keytab",
        "sasl_kerberos_kinit_cmd",
        "sasl_kerberos_min_time_before_relogin",
        "sasl_kerberos_principal",
        "sasl_kerberos_service_name",
        "sasl_oauthbearer_client_id",
        "sasl_oauthbearer_client_secret",
        "sasl_oauthbearer_config",
        "sasl_oauthbearer_extensions",
        "sasl_oauthbearer_grant_type",
        "sasl_oauthbearer_method",
        "sasl_oauthbearer_scope",
        "sasl_oauthbearer_token_endpoint_url",
    }
)
"""librdkafka's other security settings (2.16, CONFIGURATION.md), which go to it as they are."""


class KafkaSettings(BaseModel):
    """Settings to reach Kafka. The security settings carry librdkafka's names, with `_` for `.`; those
    of `FURTHER_SECURITY` are taken too.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, SecretStr] = Field(init=False)

    bootstrap_servers: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    replication: int = Field(default=1, ge=1)
    """Replication factor of the topics that a service creates."""
    grants: bool = False
    """Whether the registry grants the services' users the rights on each pipeline's topics."""
    security_protocol: str | None = None
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    """A file that holds the password and nothing else, instead of `sasl_password`; read for each
    new client.
    """
    ssl_ca_location: str | None = None
    ssl_certificate_location: str | None = None
    ssl_key_location: str | None = None
    ssl_key_password: SecretStr | None = None

    _kafka_python: ClassVar = {
        "sasl_username": "sasl_plain_username",
        "sasl_password": "sasl_plain_password",
        "ssl_ca_location": "ssl_cafile",
        "ssl_certificate_location": "ssl_certfile",
        "ssl_key_location": "ssl_keyfile",
        "ssl_key_password": "ssl_password",
        "ssl_crl_location": "ssl_crlfile",
        "sasl_kerberos_service_name": "sasl_kerberos_service_name",
    }  # its names for librdkafka's

    @model_validator(mode="after")
    def _no_misspelt_names(self) -> Self:
        for name in sorted(self.__pydantic_extra__.keys() - FURTHER_SECURITY):
            known = {*type(self).model_fields, *FURTHER_SECURITY}
            raise ValueError(f"Kafka has no setting `{name}`{nearest(name, known)}")
        return self

    def client(self, **overrides: Any) -> dict[str, Any]:
        """librdkafka's configuration: where, security, a quick return after an outage. Overrides
        use `_` for `.`.
        """
        base = {
            "bootstrap.servers": self.bootstrap_servers,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "socket.keepalive.enable": True,
            # Known brokers are connected to again, with back-off. By default librdkafka begins anew
            # from the bootstrap servers whenever all are down: 40 connections a second from each
            # client, and a transaction may wait for ever for its coordinator (issue 5511).
            "metadata.recovery.strategy": "none",
        }
        chosen = self._chosen_security() | overrides
        return base | {name.replace("_", "."): value for name, value in chosen.items()}

    def admin(self) -> dict[str, Any]:
        """kafka-python's keyword arguments. Raises Invalid for a setting that it has no counterpart of."""
        security: dict[str, Any] = {}
        for name, value in self._chosen_security().items():
            if name == "ssl_endpoint_identification_algorithm":
                security["ssl_check_hostname"] = value != "none"
            elif name in FURTHER_SECURITY and name not in self._kafka_python:
                raise Invalid(
                    "a service cannot keep this setting",
                    where=f"PENSTOCK_KAFKA__{name.upper()}",
                    remedy="Services create topics with kafka-python, which has nothing like it; programs"
                    " that publish may use it",
                )
            else:
                security[self._kafka_python.get(name, name)] = value
        return {"bootstrap_servers": self.bootstrap_servers.split(","), **security}

    def topic(self, name: str) -> str:
        """The catalogue's name with this installation's prefix."""
        return self.topic_prefix + name

    def _chosen_security(self) -> dict[str, str]:
        """Security settings that are set, the password from its file."""
        given = {
            name: value
            for name, value in self
            if name.startswith(("security_", "sasl_", "ssl_")) and name != "sasl_password_file"
        }
        if self.sasl_password_file:
            given["sasl_password"] = _password(self.sasl_password_file)
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in {**given, **self.__pydantic_extra__}.items()
            if value is not None
        }


def _password(file: Path) -> str:
    try:
        password = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"Kafka's password cannot be read: {error}", where=str(file)) from error
    if not password:
        raise Invalid("Kafka's password file is empty", where=str(file))
    return password
