"""A full disk: what was there stays, what was forwarded goes, and room that comes back is used; events
are refused, and answers go on or are refused as their pipeline says.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

# In a mount namespace of its own, where the folder is a small file system.
CODE = """\
import subprocess, sys
from pathlib import Path
from penstock_edge_gateway.site.spool import Gap, Record, Spool
from penstock_edge_gateway.site.spool_file import Full

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=True)
records = [Record("loans", "applications", "p", b"x" * 10_000)] * 10

def fill(file):
    try:
        while file.write(b"x" * 4096):
            pass
    except OSError:
        pass

def room():
    try:
        spool.append(records)
    except Full:
        return False
    return True

with Spool(folder / "lane.db", durable=True, size=1 << 30) as spool:
    kept = 0
    while room():
        kept += 10
    assert kept > 1000, kept
    other = (folder / "of-others").open("wb", buffering=0)
    fill(other)
    assert not room()
    assert spool.depth().records == kept
    assert spool.drop(50) == 50  # out of the reserve
    assert not (folder / "lane.reserve").exists()
    fill(other)  # others take the room that it held
    first, *rest = spool.read(1 << 20, 1 << 30).entries
    assert first == Gap(50, "full")
    assert rest == records * (kept // 10 - 5)
    spool.acknowledge(kept // 2)
    assert spool.depth().records == kept - kept // 2
    assert room()
    spool.acknowledge(kept + 10)
    other.close()
    (folder / "of-others").unlink()
    assert room()
    spool.acknowledge(kept + 20)
    assert (folder / "lane.db").stat().st_size < 1_000_000
    assert (folder / "lane.reserve").stat().st_size > 1_000_000
"""

LANES = """\
import asyncio, subprocess, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from penstock.contracts.errors import NotFound, TooLarge, Unavailable
from penstock.packages.format import open_package
from penstock.packages.keys import Keys
from penstock.serving.model import Model
from penstock.serving.protocol.tensors import InferMessage, Tensor
from penstock.testing import lending, packages
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.lane_status import lane_status
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.publisher import Publisher
from penstock_edge_gateway.site.recorder import Recorder
from penstock_edge_gateway.site.spool import Gap, Spool

folder, now = Path(sys.argv[1]), lambda: datetime(2026, 3, 1, 12, tzinfo=UTC)
keys = Keys(folder / "keys")
keys.ensure()

def model(record):
    digest = packages.write_package(folder / record, pipeline=lending.pipeline(serving={"record": record}))
    promotion = packages.promotion(keys, packages.version(digest, keys), packages.verdict(keys, digest))
    return Model(promotion, open_package(folder / record))

required, best_effort = model("required"), model("best_effort")
disk = folder / "disk"
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
asked = {"numbers": Tensor((1, 1), [3000.0]), "strings": Tensor((1, 1), ["car"])}
answer = {"probabilities": Tensor((1, 2), [0.25, 0.75]), "decision": Tensor((1, 1), ["true"])}
event = b'{"application_id": "a", "applicant_id": "p", "at": "2026-03-01T12:00:00Z", "purpose": "%s"}'

def unknown(name):
    raise NotFound(name)

def records(model, count):
    for number in range(count):
        message = InferMessage("loans", "1", asked), InferMessage("loans", "1", answer)
        recorder.record(model, *message, took_ms=1.0, prediction=f"p{number}", protocol="grpc")

async def publish():
    file = lending.pipeline()
    keys = PseudonymKeys(Path("nowhere"))
    lane = Lane("events", events)
    publisher = Publisher(lambda _: file, lane, age=timedelta(30), clock=now, pseudonym=keys.pseudonym)
    await publisher.publish("loans", "applications", [event % (b"x" * 5000)] * 100)

def refused(call, error):
    try:
        call()
    except error as said:
        return str(said)
    raise AssertionError(f"no {error.__name__}")

with (
    Spool(disk / "events.db", durable=True, size=1 << 30) as events,
    Spool(disk / "predictions.db", durable=False, size=1 << 30) as predictions,
):
    lane = Lane("predictions", predictions)
    recorder = Recorder("branch-1", lane, pipelines=unknown, age=timedelta(30), clock=now)
    asyncio.run(publish())
    records(best_effort, 2000)
    other = (disk / "of-others").open("wb", buffering=0)
    try:
        while other.write(b"x" * 4096):
            pass
    except OSError:
        pass
    refused(lambda: [asyncio.run(publish()) for _ in range(100)], TooLarge)
    kept = events.depth().records
    records(best_effort, 10_000)
    batch = predictions.read(100_000, 1 << 30)
    assert batch.first + len(batch.entries) > 1, batch
    assert isinstance(batch.entries[0], Gap) and batch.last == 12_000, (batch.entries[0], batch.last)
    assert lane_status(lane).dropped == batch.entries[0].records and lane.lost == 0
    said = refused(lambda: records(required, 20_000), Unavailable)
    assert "answers only what is recorded" in said, said
    assert lane_status(lane).HasField("full_since")
    assert events.depth().records == kept and events.read(1 << 20, 1 << 30).last == kept
    other.close()
    (disk / "of-others").unlink()
    records(required, 100)
    asyncio.run(publish())
    assert not lane_status(lane).HasField("full_since")
"""


SITE = (Path(__file__).parent / "support" / "full_disk_site.py").read_text()


@pytest.mark.parametrize("code", [CODE, LANES, SITE], ids=["spool", "lanes", "site"])
def test_a_full_disk_stops_nothing_for_good(tmp_path: Path, code: str) -> None:
    mounts = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*mounts, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this machine lets no test mount a file system")
    done = subprocess.run([*mounts, sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
