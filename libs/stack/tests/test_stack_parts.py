"""The parts of the embedded stack, for real: Kafka, Triton and Envoy under one supervisord."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc.aio as triton
from onnx import TensorProto, helper
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from penstock.contracts.errors import PenstockError, Unavailable
from penstock.stack import processes, stackfile
from penstock.stack.inspection import State
from penstock.stack.stack import Stack, down, logs, status, up
from penstock.stack.stackfile import StackFile
from penstock.testing.stack import PORTS, StackUnderTest, running_stack
from penstock.testing.wait import until

pytestmark = pytest.mark.process

AT_ONCE_S = 5.0  # to ask all programs once, on a busy machine

CONFIG = """
name: "parity"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "numbers" data_type: TYPE_FP64 dims: [1] },
        { name: "strings" data_type: TYPE_STRING dims: [1] } ]
output [ { name: "value" data_type: TYPE_FP32 dims: [1] },
         { name: "decision" data_type: TYPE_STRING dims: [1] } ]
dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [ 4 ] }
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"""


def small_model() -> bytes:
    """value = table[int(number) % 1000]; decision = the string as it came. A number outside the table
    fails in the graph, and one beyond a thousand takes 4 bytes for each thousand.
    """
    nodes = [
        helper.make_node("Cast", ["numbers"], ["number"], to=TensorProto.INT64),
        helper.make_node("Mod", ["number", "thousand"], ["index"]),
        helper.make_node("Div", ["number", "thousand"], ["thousands"]),
        helper.make_node("ReduceMax", ["thousands"], ["size"], keepdims=0),
        helper.make_node("Reshape", ["size", "one"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["nothing"], keepdims=0),
        helper.make_node("Gather", ["table", "index"], ["found"]),
        helper.make_node("Add", ["found", "nothing"], ["value"]),
        helper.make_node("Identity", ["strings"], ["decision"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("numbers", TensorProto.DOUBLE, ["n", 1]),
            helper.make_tensor_value_info("strings", TensorProto.STRING, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n", 1]),
            helper.make_tensor_value_info("decision", TensorProto.STRING, ["n", 1]),
        ],
        [
            helper.make_tensor("table", TensorProto.FLOAT, [3], [10.0, 11.0, 12.0]),
            helper.make_tensor("thousand", TensorProto.INT64, [], [1000]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    return bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
        ).SerializeToString()
    )


@pytest.fixture(scope="module")
def parts() -> Iterator[StackUnderTest]:
    with running_stack(services=[]) as under_test:
        yield under_test


async def ask(server: triton.InferenceServerClient, number: float, text: bytes) -> tuple[float, bytes]:
    numbers = triton.InferInput("numbers", [1, 1], "FP64")
    numbers.set_data_from_numpy(np.array([[number]], dtype=np.float64))
    strings = triton.InferInput("strings", [1, 1], "BYTES")
    strings.set_data_from_numpy(np.array([[text]], dtype=object))
    answer = await server.infer("parity", [numbers, strings])
    return float(answer.as_numpy("value")[0, 0]), bytes(answer.as_numpy("decision")[0, 0])


def executions(under_test: StackUnderTest) -> int:
    """How many batches the model ran; Triton counts one a moment after it has answered."""

    def counted() -> int:
        with InferenceServerClient(under_test.stack.file.triton_grpc) as server:
            return int(server.get_inference_statistics("parity").model_stats[0].execution_count)

    return until(counted, what="Triton has counted the batch")


def load(under_test: StackUnderTest) -> None:
    """A deployer's move: put the model there, ask Triton to load it."""
    folder = under_test.home / "triton" / "models" / "parity"
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "1" / "model.onnx").write_bytes(small_model())
    (folder / "config.pbtxt").write_text(CONFIG)


def test_up_says_where_everything_is(parts: StackUnderTest) -> None:
    found = StackFile.read(parts.home)
    assert found.endpoint == f"127.0.0.1:{found.ports['door']}"
    assert [(one.program, one.state) for one in status(parts.home)] == [
        (name, State.READY) for name in ("kafka", "triton", "gateway", "envoy")
    ]
    assert (parts.home / "stack.json").stat().st_mode & 0o777 == 0o600
    assert (parts.home / "envoy" / "log" / "predictions.log").stat().st_mode & 0o777 == 0o600


async def test_strings_go_through_triton_and_a_poisoned_request_fails_alone(parts: StackUnderTest) -> None:
    load(parts)
    async with triton.InferenceServerClient(parts.stack.file.triton_grpc) as server:
        await server.load_model("parity")
        asked = [(0, "grün".encode()), (1, b"\xff\xfe"), (99, b"outside"), (2, b"")]
        answers = await asyncio.gather(
            *(ask(server, number, text) for number, text in asked), return_exceptions=True
        )
    assert [answers[0], answers[3]] == [(10.0, "grün".encode()), (12.0, b"")]
    assert isinstance(answers[1], InferenceServerException)
    assert "strings[0, 0] is not UTF-8" in str(answers[1])
    assert "INVALID_ARGUMENT" in str(answers[1].status())
    assert isinstance(answers[2], InferenceServerException)
    assert "UTF-8" not in str(answers[2])
    assert 1 <= executions(parts) < len(asked), "the four were not batched, so nothing was tried"


async def test_a_request_for_which_the_graph_wants_too_much_memory_fails_alone(parts: StackUnderTest) -> None:
    load(parts)
    async with triton.InferenceServerClient(parts.stack.file.triton_grpc) as server:
        await server.load_model("parity")
        with pytest.raises(InferenceServerException, match=r"bad_alloc|allocate memory"):
            await ask(server, 1e12, b"4 GB")
        assert await ask(server, 1, b"a") == (11.0, b"a")


async def test_a_killed_stub_is_mended_by_unloading_and_loading(parts: StackUnderTest) -> None:
    load(parts)
    async with triton.InferenceServerClient(parts.stack.file.triton_grpc) as server:
        await server.load_model("parity")
        server_pid = parts.pid("triton")
        for process in processes.of_stack(parts.home, "triton"):
            if process.pid != server_pid:
                os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(InferenceServerException):
            await ask(server, 0, b"a")
        await server.unload_model("parity")
        await server.load_model("parity")
        assert await ask(server, 0, b"a") == (10.0, b"a")


@pytest.mark.parametrize("program", ["kafka", "triton", "gateway", "envoy"])
def test_what_is_killed_comes_back(parts: StackUnderTest, program: str) -> None:
    killed = parts.kill(program)
    until(lambda: parts.pid(program) != killed, what=f"{program} has another process")
    parts.ready()


def test_what_was_stopped_stays_down_until_up(parts: StackUnderTest) -> None:
    parts.stop("envoy")
    assert [one.state for one in status(parts.home) if one.program == "envoy"] == [State.STOPPED]
    up(parts.home, [])
    parts.ready(within=AT_ONCE_S)


def test_logs_tell_what_a_program_said(parts: StackUnderTest) -> None:
    assert any("Started GRPCInferenceService" in line for line in logs(parts.home, "triton"))
    with pytest.raises(PenstockError, match="Did you mean triton"):
        logs(parts.home, "tritn")


@pytest.fixture(scope="module")
def other_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("another home")
    yield home
    down(home)


@pytest.fixture
def second(parts: StackUnderTest, other_home: Path) -> Stack:
    """A stack beside the first, which a test leaves up or down."""
    return up(other_home, [], ports_wanted=PORTS)


@pytest.fixture
def first(parts: StackUnderTest) -> dict[str, int]:
    """Processes of the first stack, before there is a second."""
    return {one.program: parts.pid(one.program) for one in status(parts.home)}


def test_a_second_stack_takes_other_ports_and_leaves_the_first_alone(
    parts: StackUnderTest, first: dict[str, int], second: Stack
) -> None:
    assert set(second.file.ports.values()).isdisjoint(parts.stack.file.ports.values())
    parts.ready(within=AT_ONCE_S)
    assert {name: parts.pid(name) for name in first} == first


def test_up_after_a_killed_supervisor_starts_afresh_at_the_same_ports(
    parts: StackUnderTest, second: Stack
) -> None:
    for process in processes.of_stack(second.home, processes.SUPERVISOR):
        os.kill(process.pid, signal.SIGKILL)
    again = up(second.home, [])
    again.wait(AT_ONCE_S)
    assert again.file.ports == second.file.ports
    parts.ready(within=AT_ONCE_S)


def test_down_ends_what_a_killed_supervisor_left_and_a_home_may_have_a_space(
    other_home: Path, second: Stack
) -> None:
    assert " " in str(other_home)
    load(StackUnderTest(second))
    subprocess.run([sys.executable, "-c", LOAD, second.file.triton_grpc], check=True, timeout=60)
    supervisors = processes.of_stack(other_home, processes.SUPERVISOR)
    for process in [
        *supervisors,
        *(one for one in processes.of_stack(other_home, "triton") if one.pid == second.pid("triton")),
    ]:
        os.kill(process.pid, signal.SIGKILL)
    assert {one.state for one in status(other_home)} == {State.STOPPED}
    down(other_home)
    assert_nothing_left(other_home)


def test_what_does_not_get_ready_is_named(parts: StackUnderTest) -> None:
    with (
        parts.without("kafka"),
        pytest.raises(Unavailable, match=r"not ready within 1 s: kafka is stopped.*penstock logs kafka"),
    ):
        parts.stack.wait(1)


LOAD = "import sys, tritonclient.grpc as g; g.InferenceServerClient(sys.argv[1]).load_model('parity')"


def assert_nothing_left(home: Path) -> None:
    assert processes.of_stack(home) == []
    assert not stackfile.socket(home).parent.exists()
    assert list(Path("/dev/shm").glob(f"{stackfile.shared_memory(home)}*")) == []
    assert not (home / "stack.json").exists()
    assert status(home) == []


def test_the_model_is_sound() -> None:
    onnx.checker.check_model(onnx.load_from_string(small_model()))
