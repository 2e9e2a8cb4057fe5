"""Odd pipeline files through the door, many at once: refused, and nothing is applied."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from census import Served
from test_odd_pipeline_files import SEED, files

from penstock.client.pipelines import BadPipelineFile
from penstock.contracts.load import read_data
from penstock.testing.stack import StackUnderTest

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SAMPLE = 200


def test_the_registry_refuses_them(served: Served, stack: StackUnderTest) -> None:
    made, pid = files(SEED + 2), stack.pid("model_registry")
    before = served.client.pipelines.list()

    def apply(text: str) -> str:
        with suppress(BadPipelineFile):
            served.client.pipelines.apply(text, by="test", dry_run=True)
            read_data(text)
            return "taken"
        return "refused"

    with ThreadPoolExecutor(8) as many:
        said = Counter(many.map(apply, [next(made) for _ in range(SAMPLE)]))
    print(f"\n{dict(said)}")
    assert said.total() == SAMPLE
    assert stack.pid("model_registry") == pid
    assert served.client.pipelines.list() == before
