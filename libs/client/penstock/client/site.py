"""A site as the programs beside it use it: events in, whether or not the platform can be reached.

with Site("127.0.0.1:9195") as site:
    taken = site.publish("credit-risk", "applications", rows)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from penstock.client.connection import Connection
from penstock.client.declared import Row
from penstock.client.events import encoded
from penstock.contracts.pipeline import Pipeline
from penstock.edge_gateway.v1 import site_pb2, site_pb2_grpc

EVENTS: Final = 500  # in a call, and of so many bytes
BYTES: Final = 4 << 20  # of events in one call, at most


@dataclass(frozen=True)
class Rejected:
    """Event that breaks a rule of its pipeline. It was not kept: repair it and publish it again."""

    row: int  # from 0
    reason: str
    field: str | None
    detail: str


@dataclass
class Taken:
    """Events of one call of `publish`: those accepted are on the site's disk."""

    accepted: int = 0
    rejected: list[Rejected] = field(default_factory=list)


class Site:
    """Connects at the first call. Safe from several threads."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: host:port of the site's gRPC."""
        self._connection = Connection(endpoint)
        self._stub = site_pb2_grpc.SiteServiceStub(self._connection.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.channel.close()

    def publish(
        self,
        pipeline: str,
        source: str,
        rows: Iterable[Row | bytes],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Taken:
        """Publishes rows (mappings, or an event's bytes as they are); returns when all that break no
        rule are on the site's disk.

        Raises Invalid for a row without a JSON form, NotFound for a pipeline or source that the site
        does not know, TooLarge when its spool is full, Unavailable; what was accepted before is kept:
        publish again, repeats are dropped by their id. `progress` is told the count of events so far.
        """
        taken, sent = Taken(), 0
        encodes = (
            row if isinstance(row, bytes) else encoded(row, where=f"row {number}")
            for number, row in enumerate(rows)
        )
        for events in _batches(encodes):
            request = site_pb2.PublishRequest(pipeline=pipeline, source=source, events=events)
            answer = self._connection.call(self._stub.Publish, request)
            taken.accepted += answer.accepted
            taken.rejected += [
                Rejected(sent + one.index, one.reason, one.field or None, one.detail)
                for one in answer.rejected
            ]
            sent += len(events)
            if progress:
                progress(sent)
        return taken

    def spec(self, pipeline: str) -> Pipeline:
        """The pipeline as the site knows it. Raises NotFound, Unavailable."""
        request = site_pb2.GetPipelineRequest(pipeline=pipeline)
        return Pipeline.model_validate_json(
            self._connection.call(self._stub.GetPipeline, request).pipeline_json
        )

    def status(self) -> site_pb2.SiteStatus:
        """Tells what it serves, what waits for the hub, and whether that can be reached."""
        return self._connection.call(self._stub.GetStatus, site_pb2.GetStatusRequest())


def _batches(events: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for event in events:
        if batch and (len(batch) == EVENTS or size + len(event) > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event)
    if batch:
        yield batch
