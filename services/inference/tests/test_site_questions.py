"""Questions of sites: from the hub alone, for the pipeline that it was asked for and for the version that
answers; the record says which site was asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from penstock.contracts.errors import Denied, Invalid, NotFound
from penstock.contracts.site_door import DOOR_HEADER, SiteDoor
from penstock.inference.v1 import fallback_pb2 as pb
from penstock.packages.format import open_package
from penstock.packages.keys import Keys
from penstock.serving.confidence import Edges
from penstock.serving.model import Layouts, Model
from penstock.serving.protocol.checks import EVENTS as PARAMETER
from penstock.testing import packages
from penstock_inference.record.origin import OfSite, Origin, Origins
from penstock_inference.record.predictions import read_line
from penstock_inference.serving.triton import infer_request
from penstock_inference.site_servicer import SiteQuestions, tensors_of

Make = Callable[..., Any]
SITE = OfSite("branch-1", "no_version", Edges(0.2, (0.4, 0.45)), label_below=0.5, protocol="http")


class Context:
    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> None:
        return None


@pytest.fixture
def model(tmp_path: Path) -> Model:
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    digest = packages.write_package(tmp_path / "package")
    promoted = packages.promotion(
        keys, packages.version(digest, keys), packages.verdict(keys, digest), generation=4
    )
    return Model(promoted, open_package(tmp_path / "package"))


@pytest.mark.parametrize("handed", [True, False])
@pytest.mark.parametrize("metadata", [(), ((DOOR_HEADER, "guessed"),), ((DOOR_HEADER, ""),)])
async def test_nobody_but_the_hub_names_a_site(tmp_path: Path, handed: bool, metadata: Any) -> None:
    if handed:
        said = SiteDoor(authority="", certificate="", key="", secret="secret")
        (tmp_path / "door.json").write_text(said.model_dump_json())
    questions = SiteQuestions(None, None, tmp_path / "door.json")  # type: ignore[arg-type]
    with pytest.raises(Denied, match="only the hub asks for sites"):
        await questions.Answer(pb.AnswerRequest(site="branch-1"), Context(*metadata))


async def test_a_reason_that_no_record_has_is_refused(tmp_path: Path) -> None:
    said = SiteDoor(authority="", certificate="", key="", secret="secret")
    (tmp_path / "door.json").write_text(said.model_dump_json())
    questions = SiteQuestions(None, None, tmp_path / "door.json")  # type: ignore[arg-type]
    asked = pb.AnswerRequest(site="branch-1", question=pb.SiteQuestion(pipeline="loans", degraded="so"))
    with pytest.raises(Invalid, match="degraded: no reason 'so'"):
        await questions.Answer(asked, Context((DOOR_HEADER, "secret")))


def question(model: Model, **change: str) -> pb.SiteQuestion:
    asked = infer_request(model.pipeline, 4, [(1.0,)], [("car",)])
    for name, value in change.items():
        setattr(asked, name, value)
    return pb.SiteQuestion(pipeline=model.pipeline, tensors=asked.SerializeToString())


def test_a_question_is_for_its_pipeline_and_for_the_version_that_answers(model: Model) -> None:
    assert tensors_of(question(model, model_version=""), model).model_version == "4"
    with pytest.raises(Invalid, match="the tensors are for 'payroll', the question is for loans"):
        tensors_of(question(model, model_name="payroll"), model)
    with pytest.raises(NotFound, match="loans serves generation 4, not 3"):
        tensors_of(question(model, model_version="3"), model)
    for nonsense in (b"", b"\xff\xff", service_pb2.ModelInferRequest(model_name="loans").SerializeToString()):
        with pytest.raises(Invalid, match="this is no ModelInferRequest"):
            tensors_of(pb.SiteQuestion(pipeline="loans", tensors=nonsense), model)


def test_the_record_names_the_site_and_is_judged_as_the_sites_own_are(
    tmp_path: Path, line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    origins = Origins(tmp_path)
    assert origins.opened(origins.seal(Origin(site=SITE))) == Origin(site=SITE)
    request = grpc_request([[41.0, 1.0]], [["car", "true"]])
    request.parameters[PARAMETER].string_param = origins.seal(Origin(site=SITE))
    answer = grpc_response([[0.9, 0.1]], ["no"]).SerializeToString()
    found = read_line(line(framed(request.SerializeToString()), framed(answer)), layouts, origins)[1]
    assert (found["site"], found["served_by"], found["degraded"]) == ("branch-1", "cloud", "no_version")
    assert found["protocol"] == "http"  # the site was asked by it, and asked the door over gRPC
    assert found["confidence"] == pytest.approx([0.5])
    assert found["for_labelling"] == (found["confidence"][0] < 0.5)
    forged = origins.seal(Origin(site=SITE)).replace("branch-1", "branch-2")
    request.parameters[PARAMETER].string_param = forged
    made = line(framed(request.SerializeToString()), framed(answer))
    assert "site" not in read_line(made, layouts, origins)[1]
    assert json.dumps(found)
