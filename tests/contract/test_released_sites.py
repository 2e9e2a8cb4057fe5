"""A site one release behind its hub, and a hub one behind its site: `released/site.json` has messages
of the release before, as they went over the line.
"""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.message import Message
from sqlalchemy import select

from penstock.contracts.events import ModelVersionPromoted, PipelineApplied, PipelineDeleted
from penstock.edge_gateway.v1 import hub_pb2 as pb
from penstock.packages.evidence import admissible
from penstock.packages.keys import Keys
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock.testing import lending
from penstock_edge_gateway.hub.forward.lanes import Lane, Position, batch_of
from penstock_edge_gateway.hub.forward.translation import of_event, of_prediction
from penstock_edge_gateway.hub.forward.write import Write
from penstock_edge_gateway.hub.reports import Reports
from penstock_edge_gateway.hub.store import ENROLLED, SiteRow, Tables
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.trust import SiteTrust

RELEASED = json.loads((Path(__file__).parent / "released" / "site.json").read_text())
THEN = datetime(2026, 11, 30, 6, tzinfo=UTC)
DIGEST = f"sha256:{'1' * 64}"


def sent(by: str, name: str) -> Any:
    kind: type[Message] = getattr(pb, name)
    return kind.FromString(b64decode(RELEASED[by][name]))


def test_what_a_site_of_the_release_before_forwards_is_written_as_it_was() -> None:
    def translated(site: str, record: pb.Forwarded) -> Any:
        if record.WhichOneof("what") == "event":
            return of_event(record.event, lambda _: lending.pipeline())
        return of_prediction(record.prediction, site, lambda _: lending.pipeline())

    request = sent("site", "ForwardRequest")
    lane = Lane("branch-1", "events")
    write = Write({lane: Position("a1b2", 7, 4)}, translated)
    reached = write.add(batch_of("branch-1", request))
    assert (reached.sequence, dict(reached.rejected)) == (12, {})
    event, prediction, position = write.messages
    assert (event.topic, event.key) == ("loans.applications.events.v1", b"p1")
    assert event.value == request.records[0].event.event
    assert (prediction.topic, prediction.key) == ("loans.predictions.v1", b"6f1c")
    assert orjson.loads(prediction.value or b"") == orjson.loads(request.records[2].prediction)
    assert orjson.loads(position.value or b"")["sequence"] == 12


def test_the_status_of_a_site_of_the_release_before_is_told(tmp_path: Path) -> None:
    request = sent("site", "WatchRequest")
    assert (request.incarnation, dict(request.generations), dict(request.numbers)) == (
        4,
        {"loans": 3},
        {"loans": 2},
    )
    assert (request.trust_serial, request.erased) == (7, 5)
    assert sent("site", "HelloRequest").clock.ToDatetime(UTC) == THEN
    store = Store.open(f"sqlite:///{tmp_path}/hub.db", Tables.metadata)
    with store.transaction() as effect:
        effect.session.add(SiteRow(name="branch-1", state=ENROLLED, since=THEN, incarnation=4))
        Reports(lambda: THEN).heard("branch-1", request.status, effect)
    with store.snapshot() as session:
        (row,) = session.scalars(select(OutboxRow))
        told = json.loads(row.value)
    store.close()
    assert (told["site"], told["clock_ahead_s"], told["trust_serial"]) == ("branch-1", 0, 7)
    (serving,) = told["pipelines"]
    assert (serving["serving"]["digest"], serving["serving"]["generation"]) == (DIGEST, 3)
    assert serving["refused"]["why"] == "tampered"
    assert [(one["lane"], one["records"], one["dropped"]) for one in told["lanes"]] == [
        ("events", 12, 2),
        ("predictions", 0, 0),
    ]


def test_what_a_hub_of_the_release_before_answers_is_taken_in(tmp_path: Path) -> None:
    trust = SiteTrust(tmp_path)
    trust.begin(sent("hub", "JoinResponse").trust)
    hello = sent("hub", "HelloResponse")
    assert (hello.incarnation, hello.positions["events"].sequence) == (4, 7)
    news = sent("hub", "WatchResponse")
    assert not trust.follow(news.trust)
    pipelines = Pipelines(tmp_path / "pipelines", trust.folder)
    pipelines.apply(PipelineApplied.model_validate_json(news.pipelines[0]))
    pipelines.delete(PipelineDeleted.model_validate_json(news.deleted[0]))
    assert pipelines.numbers == {"loans": 2}
    assert pipelines.get("loans") == lending.pipeline()
    promotion = ModelVersionPromoted.model_validate_json(news.promotions[0])
    assert admissible(promotion, Keys(trust.folder).trust(), DIGEST) == []
    assert [(one.serial, one.entity) for one in news.erasures] == [(5, "p1")]
    answer = sent("hub", "ForwardResponse")
    assert (answer.reached, [one.sequence for one in answer.rejected]) == (12, [8])
