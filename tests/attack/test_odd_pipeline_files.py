"""Pipeline files with anything wrong in them: refused soon, in words that name a place, and by one
kind of error; what is taken is what the published schema allows.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from census import ROOT
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from penstock.contracts.load import BadPipeline, read_data
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import BY_ROWS
from penstock.testing.mutations import Mutations

SEED = 20_261_131
FEW, MANY = 100, 2_000
FILES = [path.read_text() for path in sorted(ROOT.glob("examples/*/pipeline.yaml"))]
SCHEMA = Draft202012Validator(json.loads((ROOT / "schemas" / "pipeline.json").read_bytes()))
LONGEST_S = 1.0  # of a processor


def files(seed: int) -> Iterator[str]:
    """Other files without end: of each second one the text is odd, else what it says."""
    mutations = Mutations(seed)
    data = [read_data(text) for text in FILES]
    while True:
        at = mutations.draw.randrange(len(FILES))
        yield mutations.yaml(FILES[at]) if mutations.draw.random() < 0.6 else mutations.text(data[at])


def judged(text: str) -> str:
    """`taken`, or the message of a refusal. Fails for anything else."""
    began = time.thread_time()
    try:
        data = read_data(text)
    except BadPipeline as refused:
        found = refused.problems
        assert found, text
        assert all(one.message for one in found), text
        assert all(one.line > 0 or not one.key for one in found), (found, text)
        said = found[0].message.split(":")[0][:30]
    else:
        Pipeline.model_validate(data)
        plain = json.loads(json.dumps(independent(text), default=str))
        assert {"defaults": BY_ROWS, **plain} == data, text
        assert not [*SCHEMA.iter_errors(plain)], text
        said = "taken"
    took = time.thread_time() - began
    assert took <= LONGEST_S, f"{took:.1f} s for {text[:2000]}"
    return said


def independent(text: str) -> Any:
    """The file as another constructor of YAML 1.2 reads it."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    return yaml.load(text)


def test_an_odd_file_is_refused_in_words() -> None:
    made = files(SEED)
    with ThreadPoolExecutor(4) as many:
        said = Counter(many.map(judged, (next(made) for _ in range(FEW))))
    assert said["taken"] < FEW / 2
    assert len(said) > 10


@pytest.mark.slow
def test_two_thousand_are_too() -> None:
    made, held, said = files(SEED + 1), [], Counter[str]()
    with ThreadPoolExecutor(4) as many:
        for _ in range(2):
            said.update(many.map(judged, [next(made) for _ in range(MANY // 2)]))
            held.append(psutil.Process().memory_info().rss)
    print(f"\n{said['taken']} taken, {said.total() - said['taken']} refused; held {held}")
    assert held[1] <= 1.05 * held[0]
