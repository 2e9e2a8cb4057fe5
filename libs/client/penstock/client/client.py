"""`Penstock`: the platform from a program.

    with Penstock() as penstock:
        penstock.pipelines.apply(Path("pipeline.yaml").read_text())
        published = penstock.events.publish("adult-income", "people", rows)
        run = penstock.runs.create("adult-income", after=published.offsets)
        for run in penstock.runs.watch(run.run_id): ...
        penstock.predictions.by_entity("adult-income", "42").decision

Nothing is connected before the first call. Errors are `penstock.contracts.errors.PenstockError`s:
what is wrong, where, what to do.
"""

from __future__ import annotations

from typing import Self

from penstock.client.audits import Audits
from penstock.client.connection import Connection
from penstock.client.dead_letters import DeadLetters
from penstock.client.events import Events
from penstock.client.features import Features
from penstock.client.lineage import Tracing
from penstock.client.models import Models
from penstock.client.pipelines import Pipelines
from penstock.client.predictions import Predictions
from penstock.client.runs import Runs
from penstock.client.settings import ClientSettings
from penstock.client.sites import Sites
from penstock.client.status import Status
from penstock.client.studies import Studies


class Penstock:
    """A platform. Settings come from the environment and `$PENSTOCK_HOME/stack.json` unless given."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self.settings = settings or ClientSettings()
        self._connection = Connection(self.settings.endpoint)
        self.pipelines = Pipelines(self._connection)
        self.events = Events(self._connection, self.settings, self.pipelines)
        self.features = Features(self._connection)
        self.runs = Runs(self._connection)
        self.studies = Studies(self._connection)
        self.models = Models(self._connection)
        self.audits = Audits(self._connection)
        self.predictions = Predictions(self._connection, self.events, self.features)
        self.dead_letters = DeadLetters(self.settings.operator, self.events)
        self.sites = Sites(self._connection)
        self.status = Status(self._connection)
        self.lineage = Tracing(self)

    def close(self) -> None:
        self._connection.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
