"""Many lines at once: what is kept of each, and those that belong to no pipeline."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import orjson

from penstock.serving.model import Layout
from penstock_inference.record.reading import read_lines

Make = Callable[..., Any]
LINES = 500
OBJECTS_EACH = 6  # that the garbage collector visits; a prediction that is kept makes eleven


def test_a_batch_is_no_pile_of_objects(
    line: Make,
    framed: Make,
    grpc_request: Make,
    grpc_response: Make,
    layouts: Callable[[str, int | None], Layout | None],
) -> None:
    """Kept until the batch was published, they took a third of the recorder's time."""
    request = framed(grpc_request([[41.0, 1.0]], [["car", "true"]]).SerializeToString())
    response = framed(grpc_response([[0.25, 0.75]], ["yes"]).SerializeToString())
    made = [line(request, response, id=f"{number:06d}") for number in range(LINES)]
    made.insert(LINES // 2, b"no line")
    read_lines(made[:1], layouts)  # what the first one makes for all
    gc.collect()
    before = len(gc.get_objects())
    read = read_lines(made, layouts)
    gc.collect()
    assert len(gc.get_objects()) - before < OBJECTS_EACH * LINES
    assert [orjson.loads(message.value or b"")["id"] for message in read.messages] == [
        f"{number:06d}" for number in range(LINES)
    ]
    assert [outcome.rows for outcome in read.outcomes] == [1] * LINES
    assert len(read.unattributed) == 1
