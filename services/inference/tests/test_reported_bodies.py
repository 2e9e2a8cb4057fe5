"""Bodies that people reported: the answer is refused, or its record says what the model saw. Requests
that ended Triton: it goes on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import orjson
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.serving.records import PREDICTION_HEADER
from penstock_inference.record.predictions import read_line

if TYPE_CHECKING:
    from echo import Echoing

pytestmark = pytest.mark.process

ID = PREDICTION_HEADER
TEXTS = ["mail", "true", "printer broken again"]


def body(numbers: str = "[50.0,3.0]", texts: list[str] = TEXTS, rows: int = 1, more: str = "") -> bytes:
    return (
        f'{{"inputs":[{{"name":"numbers","shape":[{rows},2],"datatype":"FP64","data":{numbers}}},'
        f'{{"name":"strings","shape":[{rows},3],"datatype":"BYTES","data":{json.dumps(texts)}}}]{more}}}'
    ).encode()


CLASSES = ',"outputs":[{"name":"probabilities","parameters":{"classification":2}}]'
REFUSED = {
    "nan": body("[NaN,3.0]"),
    "bom": b"\xef\xbb\xbf" + body(),
    "classes": body(more=CLASSES),
    "empty": body("[]", [], rows=0),
    "5 MB of JSON": body("[" + "1.5," * (5 << 18) + "1.5]"),
    "a shape of 2^40": body("[]", rows=1 << 40),
    "a shape of 2^40, with texts": body("[1.0,2.0]", rows=1 << 40),
    "deep": body("[" * 100_000),
}


def ask(served: Echoing, data: bytes, path: str = "/v2/models/echo/infer") -> tuple[int, Any, str | None]:
    from calls import Door

    status, said, headers = Door(served.door.listen).http("POST", path, data)
    return status, orjson.loads(said), headers.get(ID)


def recorded(served: Echoing, identity: str | None) -> Any:
    from echo import LAYOUT

    for line in served.door.log.read_bytes().splitlines():
        if orjson.loads(line)["id"] == identity:
            return read_line(line, lambda pipeline, _: LAYOUT if pipeline == "echo" else None)[1]
    raise AssertionError(f"{identity} is not recorded")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_over_http(echo_served: Echoing, name: str) -> None:
    status, said, identity = ask(echo_served, REFUSED[name])
    assert status in (400, 413)
    assert said["error"]
    assert recorded(echo_served, identity)["inputs"] is None
    assert ask(echo_served, body())[0] == 200
    assert echo_served.all_run()


def test_a_boolean_of_another_spelling_is_recorded_as_the_model_saw_it(echo_served: Echoing) -> None:
    _, said, identity = ask(echo_served, body(texts=["mail", "True", "x"]))
    assert {one["name"]: one["data"] for one in said["outputs"]}["seen_strings"] == ["mail", "True", "x"]
    assert recorded(echo_served, identity)["inputs"] == {
        "a": [50.0],
        "b": [3.0],
        "c": ["mail"],
        "d": ["True"],
        "e": ["x"],
    }


def test_a_missing_number_is_null(echo_served: Echoing) -> None:
    asked = body("[null,3.0]", more=',"parameters":{"binary_data_output":true}')
    from calls import Door

    status, _, headers = Door(echo_served.door.listen).http("POST", "/v2/models/echo/infer", asked)
    assert status == 200
    assert recorded(echo_served, headers[ID])["inputs"]["a"] == [None]


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("POST", "/v2/models/nope/infer", (404,)),
        ("POST", "/v2/models/echo/versions/7/infer", (404,)),
        ("GET", "/v2/models/nope", (404,)),
        ("GET", "/v2/models/nope/ready", (404, 503)),
        ("GET", "/v2/systemsharedmemory/status", (404,)),
        ("POST", "/v2/repository/index", (404,)),
        ("GET", "/v2/models/stats", (403,)),
        ("PUT", "/v2/health/live", (404,)),
        ("GET", "/", (404,)),
    ],
)
def test_errors_are_json(echo_served: Echoing, method: str, path: str, statuses: tuple[int, ...]) -> None:
    from calls import Door

    status, said, headers = Door(echo_served.door.listen).http(method, path, body())
    assert status in statuses
    assert orjson.loads(said).keys() & {"error", "ready"}
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/echo/ready", {"name": "echo", "ready": True}),
        ("/v2/models/echo/versions/1/ready", {"name": "echo", "ready": True}),
    ],
)
def test_health_is_json(echo_served: Echoing, path: str, expected: dict[str, Any]) -> None:
    from calls import Door

    status, said, _ = Door(echo_served.door.listen).http("GET", path)
    assert (status, orjson.loads(said)) == (200, expected)


# -- over gRPC -------------------------------------------------------------------------------------


def request(shape: int = 1, **output: int) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="echo")
    made.inputs.add(name="numbers", datatype="FP64", shape=[1, 2]).contents.fp64_contents.extend([1.0, 2.0])
    strings = made.inputs.add(name="strings", datatype="BYTES", shape=[shape, 3])
    strings.contents.bytes_contents.extend([b"a", b"b", b"c"])
    for name, classes in output.items():
        made.outputs.add(name=name).parameters["classification"].int64_param = classes
    return made


@pytest.mark.parametrize(
    "asked",
    [request(1 << 40), request(seen_strings=1), request(seen_numbers=1 << 40)],
    ids=["a shape of 2^40", "classes of texts", "2^40 classes"],
)
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_refused_over_grpc(echo_served: Echoing, asked: Any, compression: grpc.Compression | None) -> None:
    with grpc.insecure_channel(echo_served.door.listen) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(asked, timeout=10, compression=compression)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert stub.ModelInfer(request(), timeout=10, compression=compression).model_version == "1"
        extensions = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=10).extensions
    assert set(extensions) == {"binary_tensor_data"}
    assert echo_served.all_run()
