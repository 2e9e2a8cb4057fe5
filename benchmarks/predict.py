"""`Predict` by entity beside its two parts, each called by itself: the online features of the entity, and
the inference of a row, recorded.

    python benchmarks/predict.py --home .penstock [--pipeline adult-income] [--entity p00100] [--json]

All three go through the front door of a running stack, in turn, one call in flight; the ratio is of
one round. Takes some ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from serving import a_row
from tritonclient.grpc import service_pb2_grpc

from penstock.feature_store.v1 import feature_store_pb2, feature_store_pb2_grpc
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.stack.stackfile import StackFile

CALLS, ROUNDS = 100, 10


async def p50_ms(call: Callable[[], Awaitable[Any]]) -> float:
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


async def measure(stack: StackFile, pipeline: str, entity: str) -> dict[str, float]:
    row = a_row(stack.triton_grpc, pipeline)
    asked = inference_pb2.PredictRequest(pipeline=pipeline, entity=entity)
    features = feature_store_pb2.GetOnlineFeaturesRequest(pipeline=pipeline, entities=[entity])
    async with grpc.aio.insecure_channel(stack.endpoint) as channel:
        predict = inference_pb2_grpc.InferenceServiceStub(channel).Predict
        online = feature_store_pb2_grpc.FeatureStoreServiceStub(channel).GetOnlineFeatures
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = (lambda: predict(asked), lambda: online(features), lambda: infer(row))
        for call in calls:
            await call()
        rounds = [[await p50_ms(call) for call in calls] for _ in range(ROUNDS)]
    ratios = [whole / (read + inference) for whole, read, inference in rounds]
    whole, read, inference = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {
        "predict_ms": whole,
        "features_ms": read,
        "infer_ms": inference,
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "greatest": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--pipeline", default="adult-income")
    parser.add_argument("--entity", default="p00100")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = asyncio.run(measure(StackFile.read(given.home), given.pipeline, given.entity))
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"predict {found['predict_ms']:.2f} ms, features {found['features_ms']:.2f} + inference"
        f" {found['infer_ms']:.2f} ms: {found['ratio']:.2f} [{found['least']:.2f}, {found['greatest']:.2f}]"
    )


if __name__ == "__main__":
    main()
