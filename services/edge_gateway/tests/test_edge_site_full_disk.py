"""A full disk: what was there stays, what was forwarded goes, and room that comes back is used."""

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
from penstock_edge_gateway.site.spool import Full, Gap, Record, Spool

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=True)
records = [Record("loans", "applications", "p", b"x" * 10_000)] * 10

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
    other = (folder / "of-others").open("wb")
    try:
        while other.write(b"x" * 4096) and not other.flush():
            pass
    except OSError:
        pass
    assert not room()
    assert spool.depth().records == kept
    assert spool.drop(50) == 50  # out of the reserve
    assert not (folder / "lane.reserve").exists()
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


def test_a_full_disk_stops_nothing_for_good(tmp_path: Path) -> None:
    mounts = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*mounts, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this machine lets no test mount a file system")
    done = subprocess.run([*mounts, sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
