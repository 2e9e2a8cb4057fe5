"""A site's own gRPC, as its client and `penstock publish --site` use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.client.cli.main import app
from penstock.client.site import Rejected, Site
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.pipeline import Pipeline
from penstock.edge_gateway.v1 import site_pb2, site_pb2_grpc
from penstock.runtime import rpc
from penstock.testing import lending
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.publisher import Publisher
from penstock_edge_gateway.site.site_servicer import SiteServicer
from penstock_edge_gateway.site.spool import Record, Spool

AT = "2026-03-01T12:00:00Z"


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    return Lane("events", Spool(tmp_path / "events.db", durable=True, size=8 << 20))


@pytest.fixture
async def address(lane: Lane, tmp_path: Path) -> AsyncIterator[str]:
    files = {"loans": lending.pipeline()}

    def find(name: str) -> Pipeline:
        if name not in files:
            raise NotFound(f"no pipeline `{name}`")
        return files[name]

    keys = PseudonymKeys(tmp_path / "pseudonyms")
    publisher = Publisher(
        find, lane, age=timedelta(days=1), clock=lambda: datetime.now(UTC), pseudonym=keys.pseudonym
    )
    server = rpc.server()
    servicer = SiteServicer(publisher, lambda: site_pb2.SiteStatus(site="branch-1"))
    site_pb2_grpc.add_SiteServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def row(number: int, **more: object) -> dict[str, object]:
    return {"application_id": f"a{number}", "applicant_id": f"p{number}", "at": AT, "income": 3000.0} | more


def kept(lane: Lane) -> list[object]:
    found = lane.spool.read(10_000, 1 << 30).entries
    return [json.loads(one.body) for one in found if isinstance(one, Record)]


async def test_a_client_publishes_rows_in_batches(address: str, lane: Lane) -> None:
    rows = [row(number, **({"incom": 1} if number in (3, 700) else {})) for number in range(1200)]
    with Site(address) as site:
        taken = await asyncio.to_thread(site.publish, "loans", "applications", rows)
    assert taken.accepted == 1198
    assert [one.row for one in taken.rejected] == [3, 700]
    assert taken.rejected[0] == Rejected(3, "unknown_field", "incom", taken.rejected[0].detail)
    assert kept(lane) == [one for one in rows if "incom" not in one]


async def test_a_client_hears_what_is_wrong(address: str) -> None:
    with Site(address) as site:
        with pytest.raises(NotFound, match="no pipeline `lones`"):
            await asyncio.to_thread(site.publish, "lones", "applications", [row(0)])
        with pytest.raises(Invalid, match="row 1: a row has no JSON form"):
            await asyncio.to_thread(site.publish, "loans", "applications", [row(0), row(1, income=object())])
        assert (await asyncio.to_thread(site.status)).site == "branch-1"


async def test_the_cli_publishes_a_file_by_the_sites_types(address: str, lane: Lane, tmp_path: Path) -> None:
    file = tmp_path / "today.csv"
    file.write_text(f"application_id,applicant_id,at,income\na0,p0,{AT},3000\na1,p1,{AT},much\n")
    command = ["publish", "loans", "applications", str(file), "--site", address, "--json"]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert done.exit_code == 1, done.output  # a half of the rows is rejected
    told = json.loads(done.stdout)
    assert told["accepted"] == 1
    assert told["rejected"][0]["row"] == 1
    assert told["rejected"][0]["reason"] == "wrong_type"
    assert kept(lane) == [row(0, at="2026-03-01T12:00:00+00:00")]
