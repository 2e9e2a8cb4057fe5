"""Days without the hub: what a site took in arrives complete, in order and once, in the room that
docs/edge.md reckons. Clocks are set forward; disk, hub and Kafka are real.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.testing.broker import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.process]

PROGRAM = Path(__file__).parents[3] / "benchmarks" / "edge_offline.py"


@pytest.mark.parametrize("hours", [0.2, pytest.param(72.0, marks=pytest.mark.slow)])
def test_what_a_site_took_in_ten_a_second_without_the_hub_arrives_once_and_in_order(
    kafka: Kafka, hours: float
) -> None:
    asked = ["--json", "--per-second", "10", "--hours", str(hours), "--kafka", kafka.bootstrap_servers]
    done = subprocess.run([sys.executable, PROGRAM, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["events"] == round(hours * 36_000)
    assert (found["missing"], found["doubled"], found["disordered"]) == (0, 0, 0)
    assert found["spooled_mb"] <= found["reckoned_mb"]
    assert found["left_mb"] < found["spooled_mb"] / 50
    assert f"the oldest for {hours:.1f} h" in found["refusal"]
