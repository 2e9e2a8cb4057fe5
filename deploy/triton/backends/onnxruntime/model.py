"""A Triton backend named `onnxruntime`, in Python: ONNX Runtime on the CPU where NVIDIA's C++
backend is not at hand.

It takes the model repositories that NVIDIA's takes: `backend: "onnxruntime"` in config.pbtxt,
`<version>/model.onnx` beside it, and these parameters: intra_op_thread_count,
inter_op_thread_count, execution_mode, enable_mem_pattern, enable_mem_arena,
optimization.graph.level. Inputs and outputs must be written out in config.pbtxt: nothing is
completed.

Requests that Triton hands over together run as one batch. Each is decoded on its own, so what is
wrong with one is answered to that one; when a batch fails in the graph, its requests run singly.
"""

import json
import os
import resource

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

if int(np.__version__.split(".")[0]) != 1:
    # The stub was compiled against NumPy 1: under NumPy 2 tensors arrive with wrong values, silently.
    raise pb_utils.TritonModelException(
        f"NumPy {np.__version__} in the backend's environment: it needs NumPy 1"
    )

TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
MEMORY = 3 << 30  # bytes that a model may take beyond what this process has without it
SHARED_MEMORY = "/dev/shm/"  # noqa: S108
OPTIMIZATION = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class Refusal(Exception):
    """One request's own mistake, told to its sender."""


class TritonPythonModel:
    def initialize(self, args):
        close_shared_memory()
        bound_memory()
        config = json.loads(args["model_config"])
        path = os.path.join(
            str(pb_utils.get_model_dir()), config.get("default_model_filename") or "model.onnx"
        )
        self.name = args["model_name"]
        self.batched = config["max_batch_size"] > 0
        self.session = ort.InferenceSession(path, session_options(config), providers=["CPUExecutionProvider"])
        self.inputs = check("input", config["input"], self.session.get_inputs(), self.name)
        self.outputs = check("output", config["output"], self.session.get_outputs(), self.name)
        if absent := sorted({i.name for i in self.session.get_inputs()} - set(self.inputs)):
            raise pb_utils.TritonModelException(
                f"config.pbtxt of model {self.name} lacks the graph's inputs {absent}"
            )
        self.strings = {i.name for i in self.session.get_inputs() if i.type == "tensor(string)"}

    def execute(self, requests):
        feeds = [self._decoded(request) for request in requests]
        sound = [feed for feed in feeds if not isinstance(feed, Exception)]
        results = iter(self._together(sound) or [self._alone(feed) for feed in sound])
        return [self._response(feed if isinstance(feed, Exception) else next(results)) for feed in feeds]

    def finalize(self):
        self.session = None

    def _decoded(self, request):
        """The request's tensors for ONNX Runtime, or the Refusal that its sender gets."""
        try:
            return {name: self._input(request, name) for name in self.inputs}
        except Refusal as refusal:
            return refusal

    def _input(self, request, name):
        value = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        if self.batched and value.shape[0] == 0:
            raise Refusal(f"input {name} has no rows")
        if name not in self.strings:
            return value
        flat = np.empty(value.size, dtype=object)
        for index, item in enumerate(value.ravel()):
            try:
                flat[index] = item.decode("utf-8")
            except UnicodeDecodeError as error:
                at = [int(i) for i in np.unravel_index(index, value.shape)]
                raise Refusal(
                    f"input {name}{at} is not UTF-8: {error.reason} at byte {error.start}"
                ) from error
        return flat.reshape(value.shape)

    def _together(self, feeds):
        """One run for all, cut into each request's rows; None when they do not go together or the
        run fails.
        """
        if not self.batched or len(feeds) < 2:
            return None
        try:
            merged = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
            values = self.session.run(self.outputs, merged)
        except (
            Exception
        ):  # unequal shapes, or one request that the graph does not take: each is answered on its own
            return None
        ends = np.cumsum([feed[self.inputs[0]].shape[0] for feed in feeds])
        if any(value.shape[0] != ends[-1] for value in values):
            return None
        return [list(parts) for parts in zip(*(np.split(value, ends[:-1]) for value in values), strict=True)]

    def _alone(self, feed):
        try:
            return self.session.run(self.outputs, feed)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            return error

    def _response(self, result):
        if isinstance(result, Refusal):
            return refused(str(result), pb_utils.TritonError.INVALID_ARG)
        if isinstance(result, Exception):
            return refused(f"model {self.name}: {result}", pb_utils.TritonError.INTERNAL)
        tensors = [
            pb_utils.Tensor(name, encoded(value)) for name, value in zip(self.outputs, result, strict=True)
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def close_shared_memory():
    """Takes the regions in which requests reach this process from every other user: Triton makes
    them with mode 0644, whatever the umask. No request has come by then.
    """
    with open("/proc/self/maps") as mapped:
        paths = {line.rstrip("\n").partition(SHARED_MEMORY)[2] for line in mapped}
    for path in paths - {""}:
        if not path.endswith(" (deleted)"):
            os.chmod(SHARED_MEMORY + path, 0o600)


def bound_memory():
    """Makes a request for which the graph wants too much fail alone: without a bound it would take the
    memory of all that runs here. This process has one model.
    """
    with open("/proc/self/statm") as pages:
        limit = int(pages.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def refused(message, code):
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))


def encoded(value):
    if value.dtype != object:
        return value
    return np.array([str(item).encode("utf-8") for item in value.ravel()], dtype=object).reshape(value.shape)


def check(kind, configured, found, model):
    """The configured names in order. Raises when one is not in the graph, or there of another type."""
    types = {item.name: TRITON_TYPES.get(item.type, item.type) for item in found}
    for item in configured:
        if item["name"] not in types:
            raise pb_utils.TritonModelException(
                f"config.pbtxt of model {model} names {kind} {item['name']}, the graph has {sorted(types)}"
            )
        if item["data_type"] != types[item["name"]]:
            raise pb_utils.TritonModelException(
                f"config.pbtxt of model {model} says {kind} {item['name']} is {item['data_type']}, in the"
                f" graph it is {types[item['name']]}"
            )
    return [item["name"] for item in configured]


def session_options(config):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(parameter(config, "intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameter(config, "inter_op_thread_count", 0))
    if int(parameter(config, "execution_mode", 0)) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = ((config.get("optimization") or {}).get("graph") or {}).get("level")
    if level is not None:
        options.graph_optimization_level = OPTIMIZATION.get(
            int(level), ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        )
    options.enable_mem_pattern = bool(int(parameter(config, "enable_mem_pattern", 1)))
    options.enable_cpu_mem_arena = bool(int(parameter(config, "enable_mem_arena", 1)))
    # Threads that spin while they wait would cost an idle model a core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def parameter(config, key, default):
    return ((config.get("parameters") or {}).get(key) or {}).get("string_value", default)
