"""Check of a ModelInferRequest before Triton sees it: what Triton takes in ways of its own, ends at,
or answers in a form that no record has, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from math import prod
from typing import Any, Final

from tritonclient.grpc import service_pb2

from penstock.serving.protocol.tensors import CONTENTS, NUMPY, Undecodable, count_texts, text

EVENTS: Final = "penstock_events"  # parameter of a request: sealed ids of the events behind it
_SIZE: Final = "binary_data_size"
LARGEST_DIMENSION: Final = (1 << 31) - 1


def check(request: service_pb2.ModelInferRequest) -> None:
    """Raises Undecodable, naming the tensor or parameter that is wrong."""
    _unknown(request.parameters, "the request", known={EVENTS})
    _all_different(request.inputs, "input")
    _all_different(request.outputs, "output")
    if not request.inputs:
        raise Undecodable("there are no inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Undecodable(f"{len(request.inputs)} tensors, but {len(raw)} raw contents")
    for output in request.outputs:
        _unknown(output.parameters, f"output {output.name}")
    for index, tensor in enumerate(request.inputs):
        data = raw[index] if raw else None
        _check_parameters(tensor, data)
        _check_values(tensor, data)


def _unknown(parameters: Any, of: str, known: Set[str] = frozenset()) -> None:
    if parameters and (others := sorted(set(parameters) - known)):
        raise Undecodable(f"{of} has the parameter {others[0]}, which this door does not take")


def _check_parameters(tensor: Any, raw: bytes | None) -> None:
    # KServe's client says of its raw contents over gRPC, too, how long they are.
    _unknown(tensor.parameters, f"input {tensor.name}", known={_SIZE})
    if _SIZE in tensor.parameters and tensor.parameters[_SIZE].int64_param != len(raw or b""):
        raise Undecodable(f"the data of {tensor.name} are not as long as its {_SIZE} says")


def _all_different(tensors: Sequence[Any], kind: str) -> None:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise Undecodable(f"an {kind} is named twice")


def _check_values(tensor: Any, raw: bytes | None) -> None:
    if tensor.datatype not in CONTENTS and tensor.datatype not in NUMPY:
        raise Undecodable(f"{tensor.name} has the datatype {tensor.datatype}")
    if not tensor.shape or not all(0 < size <= LARGEST_DIMENSION for size in tensor.shape):
        raise Undecodable(f"{tensor.name} has the shape {list(tensor.shape)}: each dimension is 1 or more")
    if raw is None:
        found = _typed(tensor)
    elif tensor.HasField("contents"):
        raise Undecodable(f"{tensor.name} has raw and typed contents")
    elif tensor.datatype == "BYTES":
        found = count_texts(raw, tensor.name)
    else:
        found, rest = divmod(len(raw), NUMPY[tensor.datatype].itemsize)
        if rest:
            raise Undecodable(f"{tensor.name}: {len(raw)} bytes are no whole number of {tensor.datatype}")
    if found != prod(tensor.shape):
        raise Undecodable(f"{tensor.name} is {list(tensor.shape)} with {found} values")


def _typed(tensor: Any) -> int:
    there = [field.name for field, _ in tensor.contents.ListFields()]
    wanted = CONTENTS.get(tensor.datatype, "none that is typed")
    if there != [wanted]:
        raise Undecodable(f"{tensor.name} of {tensor.datatype} has the contents {', '.join(there) or 'none'}")
    values = getattr(tensor.contents, wanted)
    if tensor.datatype == "BYTES":
        for value in values:
            text(value, tensor.name)
    return len(values)
