"""Predictions without pause, remembering each that was answered: what must be on record whatever was killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import orjson
from census import PIPELINE, Served, tensors
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.contracts.topics import predictions_topic
from penstock.testing.wait import until


@dataclass
class Load:
    """Ids of answered predictions, and failures by status."""

    answered: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    def grows(self, by: int = 50, within: float = 60.0) -> None:
        """Waits for more answers: the door works again."""
        now = len(self.answered)
        until(lambda: len(self.answered) >= now + by, within=within, what=f"{by} more predictions are answered ({self.failed})")


@contextmanager
def predicting(served: Served, *, pipeline: str = PIPELINE, threads: int = 2) -> Iterator[Load]:
    """Predictions from `threads` clients within the block, each retrying nothing."""
    load, stop = Load(), threading.Event()
    request = infer_request(served, pipeline)
    workers = [threading.Thread(target=_predict, args=(served.client.settings.endpoint, request, load, stop)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield load
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)


def infer_request(served: Served, pipeline: str = PIPELINE) -> service_pb2.ModelInferRequest:
    """One row, as any client of the Open Inference Protocol sends it."""
    numbers, strings = tensors(served, served.events[:1])
    request = service_pb2.ModelInferRequest(model_name=pipeline)
    for name, datatype, array in (("numbers", "FP64", numbers), ("strings", "BYTES", strings)):
        request.inputs.append(service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=array.shape))
        request.raw_input_contents.append(_raw(array))
    return request


def recorded(served: Served, pipeline: str = PIPELINE) -> list[str]:
    """Ids of all recorded predictions that were answered: a list, for multiplicity counts."""
    found = []
    for message in served.client.events.read(predictions_topic(pipeline)):
        value = message.value()
        if value is not None and (record := orjson.loads(value))["status"] == "OK":
            found.append(record["id"])
    return found


def all_recorded_once(served: Served, load: Load, within: float = 30.0) -> None:
    """Waits until each answered prediction has a record, and asserts that none has two."""
    wanted = set(load.answered)
    until(lambda: wanted <= set(recorded(served)), within=within, what="each answered prediction is recorded")
    ids = recorded(served)
    assert len(ids) == len(set(ids))


def _predict(endpoint: str, request: service_pb2.ModelInferRequest, load: Load, stop: threading.Event) -> None:
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(endpoint, options=options) as channel:
        infer: Callable = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.with_call
        while not stop.is_set():
            try:
                _, call = infer(request, timeout=5)
                load.answered.append(dict(call.initial_metadata())["x-penstock-prediction"])
            except grpc.RpcError as error:
                load.failed[error.code().name] = load.failed.get(error.code().name, 0) + 1
                time.sleep(0.01)


def _raw(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.astype("<f8").tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in array.ravel())
