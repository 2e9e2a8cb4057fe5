"""Grafana's dashboards: one screen for the flow, from flow.yaml, and one a service, from the
metrics catalogue.

`make gen` writes `grafana/dashboards/*.json`; `make check` compares. Who adds a metric to the
catalogue has its panel by that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from penstock.contracts.export import written
from penstock.contracts.metrics import CATALOGUE, SERVICES, Metric

HERE = Path(__file__).parent
FOLDER = HERE / "grafana" / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
WINDOW = "$__rate_interval"
COLUMNS = 24
"""Of Grafana's grid."""
UNITS = {"s": "s", "By": "bytes"}
RATES = {"s": "percentunit", "By": "Bps"}
"""Seconds a second are a share: of one core."""
SAYS_NOTHING = {"messaging_system", "messaging_operation_name", "rpc_system_name"}
"""Labels that have one value."""


@dataclass(frozen=True)
class Panel:
    title: str
    show: dict[str, str]
    """PromQL by its legend."""
    about: str
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    red_from: float | None = None

    @property
    def height(self) -> int:
        return 4 if self.kind == "stat" else 7


@dataclass(frozen=True)
class Row:
    title: str
    panels: list[Panel]


# -- the flow --------------------------------------------------------------------------------------


def flow() -> list[Row]:
    rows = YAML(typ="safe").load(HERE / "flow.yaml")
    return [Row(row.pop("row"), [_panel(panel, row) for panel in row.pop("panels")]) for row in rows]


def _panel(said: dict[str, Any], of_row: dict[str, Any]) -> Panel:
    expressions = " ".join(said["show"].values())
    known = (metric.about for metric in CATALOGUE if any(series in expressions for series in metric.series))
    return Panel(**{"about": next(known, ""), **of_row, **said})


# -- one a service ---------------------------------------------------------------------------------


def of_service(service: str) -> list[Row]:
    its_own = [metric for metric in CATALOGUE if metric.services == (service,)]
    shared = [metric for metric in CATALOGUE if service in metric.services and len(metric.services) > 1]
    return [
        Row(title, [panel_of(metric, service) for metric in some])
        for title, some in ((service, its_own), ("As others", shared))
        if some
    ]


def panel_of(metric: Metric, service: str) -> Panel:
    """A counter as rate, a histogram as its median and its slowest hundredth, anything else as it
    is; by all that divides it.
    """
    words = metric.name.removeprefix("penstock.").replace(".", " ").replace("_", " ")
    labels = [label for label in metric.labels if label not in SAYS_NOTHING] or ["instance"]
    by, legend = ", ".join(labels), " ".join(f"{{{{{label}}}}}" for label in labels)
    selector = f'{{job="penstock.{service}"}}'
    if metric.buckets:
        rate = f"sum by ({by}, le) (rate({metric.prometheus}_bucket{selector}[{WINDOW}]))"
        show = {f"p{share:.0f} {legend}": f"histogram_quantile({share / 100}, {rate})" for share in (50, 99)}
    elif metric.kind == "counter":
        show = {legend: f"sum by ({by}) (rate({metric.prometheus}{selector}[{WINDOW}]))"}
    else:
        show = {legend: f"{'max' if metric.shared else 'sum'} by ({by}) ({metric.prometheus}{selector})"}
    unit = RATES.get(metric.unit, "ops") if metric.kind == "counter" else UNITS.get(metric.unit, "short")
    return Panel(words[0].upper() + words[1:], show, metric.about, unit)


# -- as Grafana has it -----------------------------------------------------------------------------


def dashboard(name: str, rows: Iterable[Row]) -> dict[str, Any]:
    return {
        "uid": f"penstock-{name.replace('_', '-')}",
        "title": f"Penstock: {name}",
        "tags": ["penstock"],
        "schemaVersion": 41,
        "editable": False,
        "graphTooltip": 1,  # one cross-hair in all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_PIPELINES] if name == "flow" else []},
        "links": [
            {
                "type": "dashboards",
                "title": "Penstock",
                "tags": ["penstock"],
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "panels": list(placed(rows)),
    }


_ASKED = "label_values(penstock_ingest_events_total, pipeline)"
_PIPELINES = {
    "name": "pipeline",
    "label": "Pipeline",
    "type": "query",
    "datasource": PROMETHEUS,
    "query": {"query": _ASKED, "refId": "pipelines"},
    "definition": _ASKED,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"text": ["All"], "value": ["$__all"]},
    "refresh": 2,
    "sort": 1,
}


def placed(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Panels from left to right, on a new line where the next does not fit."""
    number = y = 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": _place(0, y, COLUMNS, 1),
        }
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            yield {"id": number, "gridPos": _place(x, y, panel.width, panel.height), **drawn(panel)}
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def drawn(panel: Panel) -> dict[str, Any]:
    draw = {"timeseries": _lines, "stat": _number, "state-timeline": _states}[panel.kind]
    defaults, options = draw(panel)
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": PROMETHEUS,
        "fieldConfig": {"defaults": {"unit": panel.unit, **defaults}, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": PROMETHEUS,
                "expr": expression,
                "legendFormat": legend,
                "range": True,
                "exemplar": "_bucket" in expression,
            }
            for at, (legend, expression) in enumerate(panel.show.items())
        ],
    }


def _lines(_panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    defaults = {"min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}
    return defaults, {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _number(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {"thresholds": {"mode": "absolute", "steps": steps}}, options


def _states(_panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    red = {"mode": "absolute", "steps": [{"color": "red", "value": None}]}
    return {"color": {"mode": "thresholds"}, "thresholds": red}, {
        "showValue": "never",
        "mergeValues": True,
        "legend": {"showLegend": False},
    }


def files() -> dict[Path, str]:
    screens = {"flow": flow(), **{service: of_service(service) for service in SERVICES}}
    return {
        FOLDER / f"{name}.json": f"{json.dumps(dashboard(name, rows), indent=1)}\n"
        for name, rows in screens.items()
    }


if __name__ == "__main__":
    sys.exit(written(files(), check="--check" in sys.argv, of=FOLDER.parents[3]))
