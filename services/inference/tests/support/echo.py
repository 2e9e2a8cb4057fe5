"""Triton, gateway and Envoy around a model that answers its own inputs: it tells what the server saw."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.serving.model import Layout
from penstock.stack import envoy
from penstock.stack.triton import Triton
from penstock.testing.broker import free_ports
from penstock.testing.wait import until
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.files import prepare

NAME = "echo"
LAYOUT = Layout(
    "sha256:" + "e" * 64, 1, numbers=("a", "b"), strings=("c", "d", "e"), booleans=frozenset({"d"})
)
CONFIG = """
name: "echo"
backend: "onnxruntime"
max_batch_size: 64
input { name: "numbers" data_type: TYPE_FP64 dims: [2] }
input { name: "strings" data_type: TYPE_STRING dims: [3] }
output { name: "seen_numbers" data_type: TYPE_FP64 dims: [2] }
output { name: "seen_strings" data_type: TYPE_STRING dims: [3] }
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def graph() -> bytes:
    value = helper.make_tensor_value_info
    shapes = {"numbers": (TensorProto.DOUBLE, ["N", 2]), "strings": (TensorProto.STRING, ["N", 3])}
    made = helper.make_graph(
        [helper.make_node("Identity", [name], [f"seen_{name}"], name=name) for name in shapes],
        NAME,
        [value(name, *shape) for name, shape in shapes.items()],
        [value(f"seen_{name}", *shape) for name, shape in shapes.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Echoing:
    door: Door
    triton: psutil.Process
    gateway: psutil.Process
    envoy: psutil.Process

    def all_run(self) -> bool:
        return all(
            one.is_running() and one.status() != psutil.STATUS_ZOMBIE
            for one in (self.triton, self.gateway, self.envoy)
        )


@contextmanager
def echoing(folder: Path) -> Iterator[Echoing]:
    listen, admin, metrics, gateway_http, gateway_grpc = free_ports(5)
    triton = Triton(
        models=folder / "models",
        link=folder / "link",
        grpc=f"unix:{folder}/triton:8001",
        metrics_port=metrics,
        shared_memory=f"penstock_echo_{os.getpid()}_",
    )
    triton.prepare()
    (triton.models / NAME / "1").mkdir(parents=True)
    (triton.models / NAME / "1" / "model.onnx").write_bytes(graph())
    (triton.models / NAME / "config.pbtxt").write_text(CONFIG)
    backends = Backends(triton.grpc, f"127.0.0.1:{gateway_grpc}", f"127.0.0.1:{gateway_http}")
    door = Door(folder / "envoy", f"127.0.0.1:{listen}", f"127.0.0.1:{admin}", backends, {})
    prepare(door)
    settings = {
        "PENSTOCK_HOME": str(folder),
        "PENSTOCK_INFERENCE__TRITON_GRPC": backends.triton,
        "PENSTOCK_INFERENCE__GATEWAY_GRPC": backends.gateway_grpc,
        "PENSTOCK_INFERENCE__GATEWAY_HTTP": backends.gateway_http,
    }
    commands = {
        "triton": (triton.command(), triton.environment()),
        "gateway": ([sys.executable, "-m", "penstock_inference.gateway"], settings),
        "envoy": (envoy.command(door.folder), {}),
    }
    with ExitStack() as stack:
        running = {}
        for name, (command, environment) in commands.items():
            log = stack.enter_context((folder / f"{name}.txt").open("wb"))
            process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            running[name] = psutil.Process(process.pid)
        with grpc.insecure_channel(triton.grpc) as channel:
            loads = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            loads.RepositoryModelLoad(
                service_pb2.RepositoryModelLoadRequest(model_name=NAME), wait_for_ready=True, timeout=60
            )
        made = Echoing(door, **running)
        with grpc.insecure_channel(door.listen) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            until(lambda: answers(stub), what="door and gateway answer")
        yield made


def answers(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> bool:
    try:
        return bool(stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=2).name)
    except grpc.RpcError:
        return False
