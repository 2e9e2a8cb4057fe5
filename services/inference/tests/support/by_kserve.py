"""KServe's own client at the door, in an environment of its own: `by_kserve.py ADDRESS`. It knows nothing of
this house.
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(binary: bool) -> InferRequest:
    numbers = InferInput("numbers", [1, 2], "FP64")
    numbers.set_data_from_numpy(np.array([[1.5, 2.0]]), binary_data=binary)
    strings = InferInput("strings", [1, 3], "BYTES")
    strings.set_data_from_numpy(np.array([[b"a", b"b", b"c"]], dtype=object), binary_data=binary)
    return InferRequest("echo", [numbers, strings])


async def main(address: str) -> None:
    rest, base = InferenceRESTClient(RESTConfig(protocol="v2")), f"http://{address}"
    assert await rest.is_server_live(base)
    assert await rest.is_server_ready(base)
    assert await rest.is_model_ready(base, "echo")
    over_grpc = InferenceGRPCClient(address)
    assert await over_grpc.is_server_live()
    assert await over_grpc.is_server_ready()
    assert await over_grpc.is_model_ready("echo")
    for binary in (False, True):
        answers = [
            await rest.infer(base, request(binary), model_name="echo"),
            await over_grpc.infer(request(binary)),
        ]
        for answer in answers:
            outputs = {output.name: output.as_numpy().ravel().tolist() for output in answer.outputs}
            texts = [text.decode() if isinstance(text, bytes) else text for text in outputs["seen_strings"]]
            assert (outputs["seen_numbers"], texts) == ([1.5, 2.0], ["a", "b", "c"]), outputs


asyncio.run(main(sys.argv[1]))
