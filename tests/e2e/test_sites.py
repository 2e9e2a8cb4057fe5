"""A machine becomes a site by the command line alone, and is shut out by it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from census import run_penstock

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Denied
from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock.packages.keys import Keys
from penstock.testing.stack import StackUnderTest
from penstock_edge_gateway.site.identity import SiteIdentity
from penstock_edge_gateway.site.trust import SiteTrust

pytestmark = pytest.mark.stack


def penstock(stack: StackUnderTest, *words: str) -> str:
    done = run_penstock(stack, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def hello(identity: SiteIdentity) -> int:
    async def ask() -> int:
        async with identity.channel() as channel:
            asked = hub_pb2_grpc.HubServiceStub(channel).Hello(hub_pb2.HelloRequest(), timeout=10)
            return int((await asked).incarnation)

    try:
        return asyncio.run(ask())
    except grpc.RpcError as error:
        raise error_of_call(error) from None


def test_a_site_joins_and_is_revoked(stack: StackUnderTest, tmp_path: Path) -> None:
    made = json.loads(penstock(stack, "sites", "enroll", "shop-1", "--valid", "1h", "--json"))
    assert made["hub"] == f"127.0.0.1:{stack.stack.file.ports['sites']}"
    joining = [sys.executable, "-m", "penstock_edge_gateway.site", "join", made["token"]]
    done = subprocess.run(
        joining,
        env=os.environ | {"PENSTOCK_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "shop-1" in done.stdout
    identity = SiteIdentity.load(tmp_path / "site")
    assert [hello(identity), hello(identity)] == [1, 2]
    assert "shop-1: enrolled since" in penstock(stack, "sites", "show", "shop-1")
    assert "shop-1" in penstock(stack, "sites", "list")

    keys = Keys(stack.stack.file.home / "keys")
    there = SiteTrust(tmp_path / "site")
    assert Keys(there.folder).trust().keys.items() <= keys.trust().keys.items()

    assert "revoked" in penstock(stack, "sites", "revoke", "shop-1")
    with pytest.raises(Denied, match="revoked"):
        hello(identity)
    taken = run_penstock(stack, "sites", "enroll", "shop-1")
    assert taken.returncode == 1
    assert "--replace" in taken.stderr
