"""A graph that was made elsewhere, on audit rows: it says the same, and breaks no bound."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx import helper as h

from penstock.contracts.errors import Invalid, Refused
from penstock.packages.parts import Origin
from penstock.runtime.child import JobContext
from penstock.testing.packages import NOW
from penstock_ethics_audit import graphs

pytestmark = pytest.mark.process

World = Any  # the fixture's class lives in conftest.py
ORIGIN = Origin(imported_by="a test", imported_from="theirs.onnx", original_digest="sha256:" + "a" * 64)


def audited(world: World, **of: Any) -> dict[str, Any]:
    order = {
        "audit_id": "A1",
        "version": world.version(**of).model_dump(mode="json"),
        "started_at": NOW.isoformat(),
        "artifacts": world.artifacts.root,
        "keys": str(world.keys.directory),
    }
    from penstock_ethics_audit.job import run

    return dict(run(JobContext("A1", "audit", order, 1, None, io.StringIO())))


def costly(scale: float) -> list[Any]:
    """Nodes that do nothing but square a matrix 40 times, whose side is `scale` times the largest x."""
    nodes = [
        h.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        h.make_node("Constant", [], ["scale"], value_float=scale),
        h.make_node("Mul", ["most", "scale"], ["size"]),
        h.make_node("Abs", ["size"], ["positive"]),
        h.make_node("Cast", ["positive"], ["side"], to=TensorProto.INT64),
        h.make_node("Constant", [], ["twice"], value_ints=[2]),
        h.make_node("Expand", ["side", "twice"], ["shape"]),
        h.make_node("ConstantOfShape", ["shape"], ["m0"]),
    ]
    nodes += [h.make_node("MatMul", [f"m{at}", f"m{at}"], [f"m{at + 1}"]) for at in range(40)]
    return [
        *nodes,
        h.make_node("ReduceSum", ["m40"], ["nothing"], keepdims=0),
        h.make_node("Add", ["x", "nothing"], ["more"]),
        h.make_node("Mul", ["more", "two"], ["slope"]),
    ]


def test_it_is_scored_as_it_would_be_here(world: World) -> None:
    ours, theirs = (audited(world, rows=300, origin=origin) for origin in (None, ORIGIN))
    assert theirs["scores"]["digest"] == ours["scores"]["digest"]


@pytest.mark.parametrize(
    ("scale", "seconds", "said"),
    [(2_000.0, 1, "does not answer within 1 s"), (50_000.0, 30, "wants more memory than it may have")],
)
def test_what_takes_too_long_or_too_much_fails_its_audit_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, scale: float, seconds: float, said: str
) -> None:
    """On the rows of the audit alone: an import finds nothing."""
    monkeypatch.setattr(graphs, "ANSWER_S", seconds)
    with pytest.raises(Refused, match=f"the graph was made elsewhere, and {said}"):
        audited(world, rows=300, origin=ORIGIN, model=world.graph(costly(scale)))


def test_what_does_not_load_is_said() -> None:
    with pytest.raises(Invalid, match="the packaged graph does not load"):
        graphs.ConfinedGraph(b"no graph", 30).__enter__()


def test_what_does_not_run_is_said_and_the_next_rows_are_answered(world: World) -> None:
    with graphs.ConfinedGraph(world.graph(), 30) as confined:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="strings"):
                confined.run(["decision"], {"numbers": np.zeros((1, 1))})
            texts = np.array([["car"], ["a\0 ä"]], dtype=object)
            found = confined.run(["decision"], {"numbers": np.ones((2, 1)), "strings": texts})
            assert found[0].tolist() == [["true"], ["true"]]


def test_one_that_dies_is_a_refusal(world: World) -> None:
    with graphs.ConfinedGraph(world.graph(), 30) as confined:
        confined._process.kill()
        with pytest.raises(Refused, match="ends the process that runs it, which was killed by SIGKILL"):
            confined.run(["decision"], {"numbers": np.zeros((1, 1))})
