"""A site's answers against a bare grpc.aio servicer that calls ONNX Runtime: time a call, processor
time a call, memory, and a start from disk to the first answer.

    python benchmarks/edge_answers.py

One row of adult-income, one call in flight, each answer recorded. The two are asked in turn, so that what
else runs slows both. The model is of the example's file, learned for one epoch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import quality
from edge_disk import grant
from tritonclient.grpc import service_pb2

from penstock.contracts.load import read_data
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import build
from penstock.packages.format import open_package
from penstock.runtime.settings import KafkaSettings
from penstock.serving.protocol.tensors import from_bytes
from penstock.testing import lending, packages
from penstock.testing.broker import free_ports
from penstock.testing.promoting import Registry
from penstock_edge_gateway.site.engine import DATATYPES
from penstock_edge_gateway.site.identity import SiteIdentity
from penstock_inference.serving.triton import infer_request

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PIPELINE, ROWS = "adult-income", 4_000
ROUNDS, CALLS, WARM = 7, 1000, 300
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
Infer = Callable[..., Any]


class Asked:
    """A program that answers, as its caller sees it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, request: Any) -> None:
        self.process = process
        self._infer: Infer = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary(
            METHOD,
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelInferResponse.FromString,
        )
        self.request = request
        self._infer(self.request, timeout=120, wait_for_ready=True)

    @property
    def cpu_s(self) -> float:
        said = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(said[11]) + int(said[12])) / TICKS

    @property
    def resident_mb(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / 1e6

    def ask(self, calls: int) -> tuple[float, float]:
        """Median time of a call, and processor time a call, in microseconds."""
        took, before = [], self.cpu_s
        for _ in range(calls):
            began = time.perf_counter()
            self._infer(self.request, timeout=30)
            took.append(time.perf_counter() - began)
        return 1e6 * statistics.median(took), 1e6 * (self.cpu_s - before) / calls


@contextmanager
def running(command: list[str], port: int, request: Any, **environment: str) -> Iterator[Asked]:
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)
    try:
        yield Asked(process, port, request)
    finally:
        process.kill()
        process.wait()


def site(home: Path, port: int, http: int, request: Any) -> Any:
    settings = {"HOME": str(home), "PORT": str(port), "HTTP_PORT": str(http)}
    command = [sys.executable, "-m", "penstock_edge_gateway.site"]
    named = {f"PENSTOCK_SITE__{name}": value for name, value in settings.items()}
    return running(command, port, request, **named)


def adult_income(folder: Path) -> tuple[dict[str, Any], str]:
    """The example's file, and the digest of a package of it, made in `folder`."""
    spec = read_data((quality.EXAMPLES / PIPELINE / "pipeline.yaml").read_text())
    spec["trainer"]["epochs"] = 1
    pipeline = Pipeline.model_validate(spec)
    parts = {name: rows[:ROWS] for name, rows in next(iter(quality.splits(ROWS, 1)))[1].items()}
    quality.write(quality.adult_income(), parts, folder)
    built = build(pipeline, folder / "train.parquet", folder / "validation.parquet")
    digest = packages.write_package(
        folder / "made" / "package",
        model=built.model,
        pipeline=pipeline,
        signature=built.signature,
        profile=built.profile,
        training_set=lending.training_set(PIPELINE),
    )
    return spec, digest


def installed(home: Path, folder: Path) -> tuple[Path, Any]:
    """Has the site's disk hold the version; its graph, and a request of one row of it."""
    registry = Registry.at(home, KafkaSettings())
    spec, digest = adult_income(folder)
    registry.generation = 1
    version = registry.of_package(folder / "made" / "package", digest, pipeline=PIPELINE)
    graph = asyncio.run(grant(home, registry, packages.applied(registry.keys, spec=spec), version))
    inputs = open_package(folder / "made" / "package").signature.inputs
    row = [[1.0] * len(inputs.numbers)], [["private"] * len(inputs.strings)]
    return graph, infer_request(PIPELINE, None, *row)


async def bare(graph: str, port: int) -> None:
    """The baseline: reads the tensors, runs the graph, writes the answer, and nothing else."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    async def infer(request: Any, _: Any) -> Any:
        feed = {
            one.name: np.array(from_bytes(DATATYPES[one.name], raw, one.name)).reshape(one.shape)
            for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        feed["strings"] = feed["strings"].astype(object)
        probabilities, decision = session.run(["probabilities", "decision"], feed)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="probabilities", datatype="FP32", shape=probabilities.shape)
        answer.outputs.add(name="decision", datatype="BYTES", shape=decision.shape)
        texts = (text.encode() for text in decision.ravel())
        answer.raw_output_contents.append(probabilities.tobytes())
        answer.raw_output_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        service_pb2.ModelInferRequest.FromString,
        service_pb2.ModelInferResponse.SerializeToString,
    )
    service, _, method = METHOD.removeprefix("/").partition("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def measure(home: Path, folder: Path) -> dict[str, float]:
    nobody, port, http, other = free_ports(4)
    SiteIdentity("bench", f"127.0.0.1:{nobody}", "", "", "").save(home)
    graph, request = installed(home, folder)
    starts, used = [], []
    for _ in range(3):
        began = time.perf_counter()
        with site(home, port, http, request) as started:
            starts.append(time.perf_counter() - began)
            used.append(started.cpu_s)
    baseline = [sys.executable, __file__, "--bare", str(graph), str(other)]
    with site(home, port, http, request) as ours, running(baseline, other, request) as theirs:
        for one in (ours, theirs):
            one.ask(WARM)
        rounds = [(ours.ask(CALLS), theirs.ask(CALLS)) for _ in range(ROUNDS)]
        resident = ours.resident_mb
    return {
        "p50_us": statistics.median(site[0] for site, _ in rounds),
        "bare_p50_us": statistics.median(bare[0] for _, bare in rounds),
        "times": statistics.median(site[0] / bare[0] for site, bare in rounds),
        "cpu_times": statistics.median(site[1] / bare[1] for site, bare in rounds),
        "start_s": min(starts),
        "start_cpu_s": min(used),
        "resident_mb": resident,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", nargs=2)
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    if said.bare:
        asyncio.run(bare(said.bare[0], int(said.bare[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name, "site"), Path(name))
    print(
        json.dumps(found)
        if said.json
        else "\n".join(f"{key:12} {value:9.2f}" for key, value in found.items())
    )


if __name__ == "__main__":
    main()
