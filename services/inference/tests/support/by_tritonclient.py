"""Triton's own client at the door over HTTP, in an environment of its own: `by_tritonclient.py ADDRESS`."""

import itertools
import sys

import numpy as np
import tritonclient.http as triton


def inputs(binary: bool) -> list[triton.InferInput]:
    numbers = triton.InferInput("numbers", [1, 2], "FP64")
    numbers.set_data_from_numpy(np.array([[1.5, 2.0]]), binary_data=binary)
    strings = triton.InferInput("strings", [1, 3], "BYTES")
    strings.set_data_from_numpy(np.array([["a", "ä", ""]], dtype=object), binary_data=binary)
    return [numbers, strings]


def status_of(call, *arguments, **named) -> str:
    try:
        call(*arguments, **named)
    except triton.InferenceServerException as error:
        return error.status() if error.message() else "no message"
    return "answered"


client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready("echo")
assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
assert client.get_model_metadata("echo")["versions"] == ["1"]
wanted = [
    None,
    [triton.InferRequestedOutput(f"seen_{name}", binary_data=False) for name in ("numbers", "strings")],
]
for binary, compression, outputs in itertools.product((True, False), (None, "gzip", "deflate"), wanted):
    answer = client.infer(
        "echo",
        inputs(binary),
        outputs=outputs,
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert answer.as_numpy("seen_numbers").tolist() == [[1.5, 2.0]]
    texts = answer.as_numpy("seen_strings").ravel().tolist()
    assert [text.decode() if isinstance(text, bytes) else text for text in texts] == ["a", "ä", ""], texts
classes = [triton.InferRequestedOutput("seen_numbers", class_count=1)]
assert status_of(client.infer, "nope", inputs(True)) == "404"
assert status_of(client.infer, "echo", inputs(True), outputs=classes) == "400"
assert status_of(client.infer, "echo", inputs(True), sequence_id=5, sequence_start=True) == "400"
assert status_of(client.get_model_repository_index) == "404"
assert status_of(client.get_inference_statistics) == "403"
