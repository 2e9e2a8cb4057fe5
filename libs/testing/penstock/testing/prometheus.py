"""What a Prometheus server has been told, asked by its HTTP API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

_ASK_S = 10.0
_SINCE_S = 3600.0


class Prometheus:
    def __init__(self, address: str) -> None:
        """`address`: host:port."""
        self._address = address

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series now. Raises ValueError for what is no PromQL."""
        return [(found["metric"], float(found["value"][1])) for found in self._ask("query", query=expression)["result"]]

    def series(self, selector: str) -> list[dict[str, str]]:
        """Labels of every series of the last hour, those that have ended too."""
        found: list[dict[str, str]] = self._ask("series", **{"match[]": selector}, **self._hour())
        return found

    def exemplars(self, selector: str) -> set[str]:
        """Trace ids of the last hour."""
        found = self._ask("query_exemplars", query=selector, **self._hour())
        return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

    def metadata(self) -> dict[str, str]:
        """The type of each metric that is scraped."""
        return {name: told[0]["type"] for name, told in self._ask("metadata").items()}

    def alerts(self) -> dict[str, str]:
        """State by name of the alerts that are pending or firing."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self._ask("alerts")["alerts"]}

    def rules(self) -> dict[str, str]:
        """Health of each rule by name: `ok`, `err`, `unknown` before its first evaluation."""
        return {rule["name"]: rule["health"] for group in self._ask("rules")["groups"] for rule in group["rules"]}

    def targets(self) -> dict[str, str]:
        """Health by job of what is scraped."""
        return {target["labels"]["job"]: target["health"] for target in self._ask("targets")["activeTargets"]}

    @staticmethod
    def _hour() -> dict[str, str]:
        now = time.time()
        return {"start": str(now - _SINCE_S), "end": str(now)}

    def _ask(self, path: str, **parameters: str) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_ASK_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from error
