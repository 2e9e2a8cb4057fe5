"""A real Prometheus, told and asked by its HTTP API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from penstock.testing import containers, remote_write
from penstock.testing.compose import image_of

_ASK_S = 10.0
_SINCE_S = 3600.0


class Prometheus:
    def __init__(self, address: str) -> None:
        """`address`: host:port."""
        self._address = address

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series now. Raises ValueError for what is no PromQL."""
        return [
            (found["metric"], float(found["value"][1]))
            for found in self._ask("query", query=expression)["result"]
        ]

    def query_range(
        self, expression: str, start: float, end: float, step_s: float
    ) -> list[tuple[dict[str, str], list[float]]]:
        """(labels, the times that had a value) of each series, looked at from `start` to `end`
        (seconds since 1970). Raises ValueError.
        """
        found = self._ask("query_range", query=expression, start=str(start), end=str(end), step=str(step_s))[
            "result"
        ]
        return [(series["metric"], [float(at) for at, _ in series["values"]]) for series in found]

    @cached_property
    def takes_otlp(self) -> bool:
        """True where it was built with its OTLP receiver."""
        try:
            self._post("otlp/v1/metrics", b"", {"Content-Type": "application/x-protobuf"})
        except urllib.error.HTTPError as error:
            return error.code != 404
        return True

    def tell(self, export: bytes) -> None:
        """An OTLP ExportMetricsServiceRequest, with times of its own; by remote write to a server
        that takes no OTLP. Raises ValueError.
        """
        try:
            if self.takes_otlp:
                self._post("otlp/v1/metrics", export, {"Content-Type": "application/x-protobuf"})
            else:
                self._post("write", remote_write.body(export), remote_write.HEADERS)
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from error

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        request = urllib.request.Request(f"http://{self._address}/api/v1/{path}", body, headers)
        urllib.request.urlopen(request, timeout=_ASK_S).close()

    def series(self, selector: str) -> list[dict[str, str]]:
        """Labels of every series of the last hour, those that have ended too."""
        return list(self._ask("series", **{"match[]": selector}, **self._hour()))

    def exemplars(self, selector: str) -> set[str]:
        """Trace ids of the last hour."""
        found = self._ask("query_exemplars", query=selector, **self._hour())
        return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

    def rules(self) -> dict[str, str]:
        """Health of each rule by name: `ok`, `err`, `unknown` before its first evaluation."""
        return {
            rule["name"]: rule["health"] for group in self._ask("rules")["groups"] for rule in group["rules"]
        }

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


@contextmanager
def running_prometheus() -> Iterator[Prometheus]:
    """A Prometheus that scrapes nothing, in a container until block or process end. Raises CannotRun."""
    with containers.run(
        image_of("prometheus", "observability"),
        port=9090,
        ready=containers.answers_at("/-/ready"),
        command=[
            "--config.file=/dev/null",
            "--storage.tsdb.path=/prometheus",
            "--enable-feature=otlp-write-receiver,exemplar-storage",
            "--web.enable-remote-write-receiver",
        ],
    ) as container:
        yield Prometheus(container.address)
