"""Where the platform is: arguments over environment over stack.json over defaults."""

import json
from pathlib import Path

import pytest

from penstock.client import ClientSettings


def test_defaults_without_a_stack(tmp_path: Path) -> None:
    settings = ClientSettings(home=tmp_path)
    assert (settings.endpoint, settings.kafka.bootstrap_servers) == ("127.0.0.1:9080", "127.0.0.1:9092")


def test_the_stack_of_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"endpoint": "127.0.0.1:7001", "kafka": "127.0.0.1:7002", "more": 1}))
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    settings = ClientSettings()
    assert (settings.endpoint, settings.kafka.bootstrap_servers) == ("127.0.0.1:7001", "127.0.0.1:7002")
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "127.0.0.1:8001")
    monkeypatch.setenv("PENSTOCK_KAFKA__TOPIC_PREFIX", "team-")
    settings = ClientSettings()
    assert (settings.endpoint, settings.kafka.bootstrap_servers, settings.kafka.topic("x")) == (
        "127.0.0.1:8001",
        "127.0.0.1:7002",
        "team-x",
    )
    assert ClientSettings(endpoint="127.0.0.1:9001").endpoint == "127.0.0.1:9001"


def test_security_settings_carry_librdkafkas_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("PENSTOCK_KAFKA__SASL_PASSWORD", "secret")
    kafka = ClientSettings(home=tmp_path).kafka
    assert kafka.client()["security.protocol"] == "SASL_SSL"
    assert kafka.client()["sasl.password"] == "secret"
    assert kafka.admin()["sasl_plain_password"] == "secret"
    assert "secret" not in repr(kafka)
