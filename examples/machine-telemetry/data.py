"""The readings as events: `python examples/machine-telemetry/data.py OUT` writes OUT/readings.csv.

The rows carry neither machine nor time. Reading i is of machine i mod 1,000, i seconds after
midnight two days ago.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dataset import fetch  # noqa: E402  examples are programs, not a package

MACHINES = 1000


def readings() -> pd.DataFrame:
    """All 49,097 rows: nine sensors, and whether the reading was an anomaly."""
    frame = pd.read_csv(fetch(HERE) / "river" / "datasets" / "shuttle.csv.gz")
    start = datetime.combine(datetime.now(UTC).date() - timedelta(days=2), time(), UTC)
    found = frame[[f"f{number}" for number in range(1, 10)]]
    found = found.rename(columns=lambda name: name.replace("f", "sensor_"))
    found.insert(0, "reading_id", [f"r{index:05d}" for index in range(len(frame))])
    found.insert(1, "machine_id", [f"m{index % MACHINES:03d}" for index in range(len(frame))])
    found.insert(
        2, "read_at", [(start + timedelta(seconds=index)).isoformat() for index in range(len(frame))]
    )
    found["anomaly"] = frame["anomaly"] == 1
    return found


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = readings()
    found.to_csv(out / "readings.csv", index=False)
    print(f"{len(found)} readings, {found['anomaly'].sum()} anomalies, in {out / 'readings.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
