"""What deploy/observability says: the alert rules, the dashboards' panels, and which metrics each
asks for.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from penstock.contracts.durations import parse_duration
from penstock.contracts.metrics import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "observability"
OTHERS = {"nv_inference_request_success", "nv_inference_request_duration_us", "envoy_cluster_upstream_rq_xx"}
"""Triton's and Envoy's own."""
_SERIES = {series for metric in CATALOGUE for series in metric.series} | OTHERS
_LABELS = {label for metric in CATALOGUE for label in metric.labels} | {
    "envoy_cluster_name",
    "envoy_response_code_class",
}
_NAME = re.compile(r"\b(?:penstock|process|messaging|rpc|nv|envoy)_\w+")


def unknown_metrics(expression: str) -> set[str]:
    """Names in PromQL that look like a metric of the platform and are none."""
    return set(_NAME.findall(expression)) - _SERIES - _LABELS


@dataclass(frozen=True)
class Alert:
    name: str
    expression: str
    for_s: float
    severity: str
    summary: str
    runbook: str


def alerts() -> list[Alert]:
    rules = [
        rule for group in YAML(typ="safe").load(FOLDER / "alerts.yaml")["groups"] for rule in group["rules"]
    ]
    return [_alert(rule) for rule in rules]


def _alert(rule: dict[str, Any]) -> Alert:
    waits = parse_duration(rule["for"]).total_seconds() if "for" in rule else 0.0
    told = rule["annotations"]
    return Alert(
        rule["alert"], rule["expr"], waits, rule["labels"]["severity"], told["summary"], told["runbook_url"]
    )


def panels(dashboard: str) -> dict[str, list[str]]:
    """The expressions of each panel by its title, with numbers for what Grafana puts in."""
    found = json.loads((FOLDER / "grafana" / "dashboards" / f"{dashboard}.json").read_text())["panels"]
    return {
        panel["title"]: [asked(target["expr"]) for target in panel["targets"]]
        for panel in found
        if panel["type"] != "row"
    }


def asked(expression: str) -> str:
    return expression.replace("$__rate_interval", "5m").replace("$pipeline", ".*")


DASHBOARDS = sorted(path.stem for path in (FOLDER / "grafana" / "dashboards").glob("*.json"))
EXPRESSIONS = sorted(
    {alert.expression for alert in alerts()}
    | {expression for dashboard in DASHBOARDS for shown in panels(dashboard).values() for expression in shown}
)
