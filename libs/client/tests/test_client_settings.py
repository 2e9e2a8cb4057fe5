"""Where the platform is: arguments over environment over stack.json over defaults."""

import json
import os
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from penstock.client import ClientSettings
from penstock.contracts.connection import FURTHER_SECURITY, KafkaSettings
from penstock.contracts.errors import Invalid


def test_defaults_without_a_stack(tmp_path: Path) -> None:
    settings = ClientSettings(home=tmp_path)
    assert (settings.endpoint, settings.kafka.bootstrap_servers) == ("127.0.0.1:9080", "127.0.0.1:9092")


def test_the_stack_of_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stack.json").write_text(
        json.dumps({"endpoint": "127.0.0.1:7001", "kafka": "127.0.0.1:7002", "more": 1})
    )
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


def test_a_stack_of_a_folder_above_is_found_but_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_HOME", raising=False)
    below = tmp_path / "loans" / "may"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert ClientSettings().assumed
    home = tmp_path / ".penstock"
    home.mkdir()
    (home / "stack.json").write_text(json.dumps({"endpoint": "127.0.0.1:7001", "kafka": "127.0.0.1:7002"}))
    settings = ClientSettings()
    assert (settings.home, settings.endpoint, settings.assumed) == (home, "127.0.0.1:7001", False)
    with monkeypatch.context() as other:
        other.setattr("os.geteuid", lambda: home.stat().st_uid + 1)
        assert ClientSettings().assumed
    monkeypatch.chdir(tmp_path)
    assert ClientSettings().home == Path(".penstock")


def test_who_stands_in_a_folder_that_is_gone_calls_the_default_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_HOME", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert ClientSettings().assumed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_somebodys_link_to_a_file_of_ones_own_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_HOME", raising=False)
    own, home, below = tmp_path / "own.json", tmp_path / ".penstock", tmp_path / "below"
    own.write_text(json.dumps({"endpoint": "127.0.0.1:7001", "kafka": "127.0.0.1:7002"}))
    for folder in (home, below):
        folder.mkdir()
    (home / "stack.json").symlink_to(own)
    monkeypatch.chdir(below)
    assert not ClientSettings().assumed
    os.lchown(home / "stack.json", 1, 1)
    assert ClientSettings().assumed


def test_an_operator_of_the_embedded_stack_comes_with_its_password(tmp_path: Path) -> None:
    stack = {"home": str(tmp_path), "endpoint": "127.0.0.1:1", "kafka": "127.0.0.1:2"}
    (tmp_path / "stack.json").write_text(json.dumps(stack | {"kafka_services": "127.0.0.1:3"}))
    settings = ClientSettings(home=tmp_path)
    assert settings.kafka.security_protocol is None
    operator = settings.operator
    assert (operator.bootstrap_servers, operator.sasl_username) == ("127.0.0.1:3", "admin")
    elsewhere = ClientSettings(home=tmp_path, kafka=KafkaSettings(bootstrap_servers="127.0.0.1:4"))
    assert elsewhere.operator == elsewhere.kafka


def test_security_settings_carry_librdkafkas_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("PENSTOCK_KAFKA__SASL_PASSWORD", "secret")
    kafka = ClientSettings(home=tmp_path).kafka
    assert kafka.client()["security.protocol"] == "SASL_SSL"
    assert kafka.client()["sasl.password"] == "secret"
    assert kafka.admin()["sasl_plain_password"] == "secret"
    assert "secret" not in repr(kafka)


def refusal(settings: dict[str, str]) -> str:
    """What librdkafka has against them."""
    try:
        Producer(settings)
    except KafkaException as error:
        return str(error)
    return ""


def test_librdkafka_refuses_what_it_does_not_know() -> None:
    assert "No such configuration property" in refusal({"ssl.ca.locaton": "x"})


def test_each_of_librdkafkas_security_settings_is_taken_and_known_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in FURTHER_SECURITY:
        monkeypatch.setenv(f"PENSTOCK_KAFKA__{name.upper()}", "what it is")
        kafka = ClientSettings(home=tmp_path).kafka
        monkeypatch.delenv(f"PENSTOCK_KAFKA__{name.upper()}")
        option = name.replace("_", ".")
        assert kafka.client()[option] == "what it is"
        assert "what it is" not in repr(kafka)
        assert "No such configuration property" not in refusal({option: "what it is"})


def test_what_kafka_python_has_no_counterpart_of_is_said() -> None:
    kafka = KafkaSettings.model_validate(
        {"ssl_endpoint_identification_algorithm": "none", "ssl_crl_location": "/crl"}
    )
    assert (kafka.admin()["ssl_check_hostname"], kafka.admin()["ssl_crlfile"]) == (False, "/crl")
    with pytest.raises(Invalid, match="PENSTOCK_KAFKA__SSL_CIPHER_SUITES: a service cannot keep"):
        KafkaSettings.model_validate({"ssl_cipher_suites": "AES"}).admin()


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
