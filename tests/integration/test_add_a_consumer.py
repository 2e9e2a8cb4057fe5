"""`docs/add-a-consumer.md`: on a copy, its handler hears each event once, and the catalogue's test asks
for both the handler and its row.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.testing.checkout import ROOT, change, copied_members, environment, run_tests

PAGE = "docs/add-a-consumer.md"
TOPICS = "libs/contracts/penstock/contracts/topics.py"
HANDLERS = "services/model_registry/penstock_model_registry/handlers.py"
COPIED = ("libs/contracts", "services/model_registry", "tests/contract")
CATALOGUE_TEST = "tests/contract/test_services_keep_the_catalogue.py"

HEARD = """
import asyncio
import sys
from pathlib import Path
from unittest.mock import Mock

from structlog.testing import capture_logs

from penstock.contracts.events import TuningStudyCompleted
from penstock.runtime.cloud_events import Received
from penstock.runtime.router import Router
from penstock.testing.stores import new_store
from penstock_model_registry import handlers
from penstock_model_registry.app import MIGRATIONS
from penstock_model_registry.store import Tables

store = new_store(f"sqlite:///{sys.argv[1]}/registry.db", MIGRATIONS, metadata=Tables.metadata)
router = handlers.router(Mock(), store)
assert "tuning-studies.v1" in router.topics
value = Path(sys.argv[2]).read_bytes()
received = Received("tuning-studies.v1", 0, 0, "first", TuningStudyCompleted.ce_type(), {}, value)


async def twice() -> None:
    for _ in range(2):
        await router.handle(received)


with capture_logs() as said:
    asyncio.run(twice())
assert [line["trials"] for line in said if line["event"] == "study_completed"] == [20], said
try:
    Router("penstock.tally").on(TuningStudyCompleted)
except ValueError as refused:
    assert "has no store" in str(refused)
else:
    raise SystemExit("a router without a store took a handler")
store.close()
"""

pytestmark = pytest.mark.process("unhurried")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    house = copied_members(tmp_path / "house", COPIED)
    assert change((ROOT / PAGE).read_text(), house) == {TOPICS, HANDLERS}
    return house


def test_the_pages_handler_hears_each_event_once(house: Path, tmp_path: Path) -> None:
    example = ROOT / "schemas" / "examples" / "TuningStudyCompleted.json"
    done = subprocess.run(
        [sys.executable, "-c", HEARD, tmp_path, example],
        env=environment(house),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_catalogue_asks_for_the_row_and_for_the_handler(house: Path) -> None:
    asked = (CATALOGUE_TEST, "-k", "model_registry")
    code, said = run_tests(house, *asked)
    assert code == 0, said
    for file in (TOPICS, HANDLERS):
        kept = (house / file).read_text()
        (house / file).write_text((ROOT / file).read_text())
        code, said = run_tests(house, *asked)
        assert code == 1, f"{file} was forgotten and nothing said so:\n{said}"
        (house / file).write_text(kept)
