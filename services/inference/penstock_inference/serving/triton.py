"""Client of Triton: what it has loaded, load, unload, one inference."""

from __future__ import annotations

from typing import Any, Final

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import DeadlineExceeded, Unavailable
from penstock.serving.protocol.tensors import Numbers, Strings, Tensor, grpc_response_of
from penstock_inference.connection import ASK_S, Connection

# Deadline of a load or unload, in seconds: a large graph takes its time, and Triton waits for what
# is in flight on the old one.
LOAD_S: Final = 120.0


def infer_request(
    model: str, version: int | None, numbers: Numbers, strings: Strings
) -> service_pb2.ModelInferRequest:
    """Writes rows as the protocol's tensors. A tensor without columns is left out; None is NaN."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version) if version else "")
    if numbers and numbers[0]:
        array = np.array(
            [[np.nan if value is None else value for value in row] for row in numbers], dtype="<f8"
        )
        request.inputs.add(name="numbers", datatype="FP64", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    if strings and strings[0]:
        request.inputs.add(name="strings", datatype="BYTES", shape=(len(strings), len(strings[0])))
        texts = (value.encode() for row in strings for value in row)
        request.raw_input_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    return request


class Triton(Connection):
    """Connection to one Triton. Every call raises Unavailable while it is away, and else the
    PenstockError of the gRPC status.
    """

    async def loaded(self) -> dict[str, frozenset[int]]:
        """Versions that Triton calls ready, by model."""
        request = service_pb2.RepositoryIndexRequest(ready=True)
        index = await self._call(self._stub.RepositoryIndex, request, ASK_S)
        ready = [(model.name, int(model.version or 0)) for model in index.models]
        return {name: frozenset(version for model, version in ready if model == name) for name, _ in ready}

    async def load(self, model: str) -> None:
        """Loads the versions that the model's configuration names, then unloads the others. On
        failure what was loaded stays. Raises Unavailable, too, where it has not ended within LOAD_S.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        try:
            await self._call(self._stub.RepositoryModelLoad, request, LOAD_S)
        except DeadlineExceeded as error:
            raise Unavailable(
                f"Triton has not loaded {model} within {LOAD_S:g} s",
                where="triton",
                remedy="See Triton's log",
            ) from error

    async def unload(self, model: str) -> None:
        await self._call(
            self._stub.RepositoryModelUnload,
            service_pb2.RepositoryModelUnloadRequest(model_name=model),
            LOAD_S,
        )

    async def infer(self, model: str, version: int, numbers: Numbers, strings: Strings) -> dict[str, Tensor]:
        """Runs one inference within ASK_S seconds. Returns the outputs by name."""
        request = infer_request(model, version, numbers, strings)
        return grpc_response_of(await self._call(self._stub.ModelInfer, request, ASK_S)).tensors

    async def live(self) -> bool:
        """Tells whether Triton runs and answers; raises nothing while it is away."""
        try:
            answer = await self._call(self._stub.ServerLive, service_pb2.ServerLiveRequest(), ASK_S)
            return bool(answer.live)
        except Unavailable:
            return False

    async def _call(self, method: Any, request: Any, within: float) -> Any:
        try:
            return await method(request, timeout=within)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
