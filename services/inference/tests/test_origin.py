"""The events behind a prediction by entity are believed when this service said so, and only then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.serving.model import Layouts
from penstock.serving.protocol.checks import EVENTS as PARAMETER
from penstock_inference.record.origin import Origin, Origins
from penstock_inference.record.predictions import read_line

Make = Callable[..., Any]
EVENTS = {"people": "e00042", "outcomes": "o1.2"}
ORIGIN = Origin(EVENTS, ["`income` is missing, as in 0% of the training rows"])


def test_what_was_sealed_is_opened_also_after_a_restart(tmp_path: Path) -> None:
    sealed = Origins(tmp_path).seal(ORIGIN)
    assert Origins(tmp_path).opened(sealed) == ORIGIN
    assert (tmp_path / "origins.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("forged", [None, "", ".", '{"people": "e1"}', '00.{"people": "e1"}'])
def test_what_a_client_makes_up_is_not_believed(tmp_path: Path, forged: str | None) -> None:
    assert Origins(tmp_path).opened(forged) is None


def test_a_changed_letter_is_not_believed(tmp_path: Path) -> None:
    origins = Origins(tmp_path)
    assert origins.opened(origins.seal(ORIGIN).replace("e00042", "e00043")) is None


def test_the_record_carries_the_events(
    tmp_path: Path, line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    origins = Origins(tmp_path)
    request = grpc_request([[41.0, 1.0]], [["car", "true"]])
    request.parameters[PARAMETER].string_param = origins.seal(ORIGIN)
    made = line(
        framed(request.SerializeToString()), framed(grpc_response([[0.5, 0.5]], ["yes"]).SerializeToString())
    )
    found = read_line(made, layouts, origins)[1]
    assert (found["events"], found["warnings"]) == (EVENTS, ORIGIN.warnings)
    assert read_line(made, layouts)[1]["events"] is None
