"""Alerts, dashboards and their pages agree with the catalogue and with one another, before anything runs."""

from __future__ import annotations

import re

import pytest
from files import DASHBOARDS, EXPRESSIONS, FOLDER, ROOT, alerts, unknown_metrics
from ruamel.yaml import YAML

from penstock.contracts.metrics import CATALOGUE, SERVICES

PAGE = (ROOT / "docs" / "alerts.md").read_text()


def test_each_alert_has_a_section_that_says_what_to_do() -> None:
    assert re.findall(r"^## (\w+)$", PAGE, re.MULTILINE) == [alert.name for alert in alerts()], (
        "in the order of the file"
    )
    assert {alert.name: alert.runbook for alert in alerts()} == {
        alert.name: f"docs/alerts.md#{alert.name.lower()}" for alert in alerts()
    }


def test_links_between_alerts_lead_somewhere() -> None:
    anchors = {alert.name.lower() for alert in alerts()}
    assert set(re.findall(r"\]\(#(\w+)\)", PAGE)) <= anchors


def test_an_alert_is_a_page_or_a_ticket() -> None:
    assert {alert.severity for alert in alerts()} == {"page", "ticket"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_is_in_the_catalogue(expression: str) -> None:
    assert unknown_metrics(expression) == set()


def test_a_misspelt_metric_is_found() -> None:
    assert unknown_metrics('sum by (pipeline) (rate(penstock_ingest_event_total{pipeline=~".*"}[5m]))') == {
        "penstock_ingest_event_total"
    }


def test_there_is_a_screen_for_the_flow_and_one_a_service() -> None:
    assert sorted(["flow", *SERVICES]) == DASHBOARDS


def test_a_services_screen_shows_every_metric_that_it_reports() -> None:
    for service in SERVICES:
        text = (FOLDER / "grafana" / "dashboards" / f"{service}.json").read_text()
        assert [
            metric.name
            for metric in CATALOGUE
            if service in metric.services and metric.prometheus not in text
        ] == []


def test_grafana_finds_its_files_where_compose_mounts_them() -> None:
    provisioned = YAML(typ="safe").load(FOLDER / "grafana" / "provisioning" / "dashboards" / "penstock.yaml")
    grafana = YAML(typ="safe").load(ROOT / "deploy" / "compose" / "dashboards.yaml")["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    (provider,) = provisioned["providers"]
    assert mounts["./deploy/observability/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/observability/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/flow.json"


def test_datasources_are_those_that_the_screens_name() -> None:
    sources = YAML(typ="safe").load(FOLDER / "grafana" / "provisioning" / "datasources" / "penstock.yaml")[
        "datasources"
    ]
    assert {source["uid"] for source in sources} == {"prometheus", "jaeger"}
    named = set(
        re.findall(
            r'"uid": "(\w+)"',
            "".join(path.read_text() for path in (FOLDER / "grafana" / "dashboards").glob("*.json")),
        )
    )
    assert named == {"prometheus"}
