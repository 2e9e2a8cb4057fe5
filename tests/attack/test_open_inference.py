"""Requests that ended Triton, or whose record did not say what the model saw: refused at the door."""

from __future__ import annotations

import http.client
import json
from typing import Any

import grpc
import pytest
from attacked import Attacked
from census import PIPELINE
from tritonclient.grpc import service_pb2, service_pb2_grpc

pytestmark = pytest.mark.stack


def post(endpoint: str, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(endpoint, timeout=30)
    connection.request("POST", f"/v2/models/{PIPELINE}/infer", body)
    answer = connection.getresponse()
    said = json.loads(answer.read())
    connection.close()
    return answer.status, said


def tensor(data: str, shape: str = "[1,5]") -> bytes:
    return f'{{"inputs":[{{"name":"numbers","shape":{shape},"datatype":"FP64","data":{data}}}]}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        tensor("[]", "[1099511627776,5]"),
        tensor("[" + "1.5," * (5 << 18) + "1.5]"),
        tensor("[NaN,1,1,1,1]"),
        tensor("[1,1,1,1,1e999]"),
        b"\xef\xbb\xbf" + tensor("[1,1,1,1,1]"),
        tensor("[1,1,1,1,1]").replace(b'"shape"', b'"shape":[1,5],"shape"'),
        tensor("[" * 100_000),
    ],
    ids=["2^40 rows", "5 MB of JSON", "NaN", "1e999", "a mark before it", "a member twice", "deep"],
)
def test_over_http(attacked: Attacked, body: bytes) -> None:
    triton = attacked.stack.pid("triton")
    status, said = post(attacked.stack.endpoint, body)
    assert status in (400, 413)
    assert said["error"]
    assert attacked.stack.pid("triton") == triton


@pytest.mark.parametrize("output", ["decision", "probabilities"])
def test_classes_over_grpc(attacked: Attacked, output: str) -> None:
    triton = attacked.stack.pid("triton")
    request = service_pb2.ModelInferRequest(model_name=PIPELINE)
    request.inputs.add(name="numbers", datatype="FP64", shape=[1, 5])
    request.raw_input_contents.append(bytes(40))
    request.outputs.add(name=output).parameters["classification"].int64_param = 1
    with grpc.insecure_channel(attacked.stack.endpoint) as channel, pytest.raises(grpc.RpcError) as refused:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert attacked.stack.pid("triton") == triton
