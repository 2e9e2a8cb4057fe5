"""Where the platform is: arguments over environment over stack.json over defaults."""

import json
from pathlib import Path

import pytest

from penstock.client import ClientSettings
from penstock.contracts.errors import Invalid


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


def test_the_password_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "kafka_password"
    monkeypatch.setenv("PENSTOCK_KAFKA__SASL_PASSWORD_FILE", str(file))
    kafka = ClientSettings(home=tmp_path).kafka
    with pytest.raises(Invalid, match="cannot be read") as missing:
        kafka.client()
    assert missing.value.where == str(file)
    file.write_text("\n")
    with pytest.raises(Invalid, match="is empty"):
        kafka.client()
    for password in ("first", "second"):  # a rotation needs no restart
        file.write_text(f"{password}\n")
        assert (kafka.client()["sasl.password"], kafka.admin()["sasl_plain_password"]) == (password, password)
