"""Demands on a foreign graph before it is loaded. Every refusal says what is wrong, where, and what
to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.message import DecodeError

from penstock.contracts.errors import Invalid

MAX_BYTES = 256 << 20
DOMAINS = {"": (11, 20), "ai.onnx": (11, 20), "ai.onnx.ml": (1, 4)}  # versions that are served
MAX_IR = 9
REMEDY = "Export the model as ONNX again and compare the files' sha256 sums"


def parse(content: bytes) -> onnx.ModelProto:
    """Reads the graph and checks its form. Raises Invalid."""
    if len(content) > MAX_BYTES:
        raise Invalid(
            f"the graph has {len(content):,} bytes; at most {MAX_BYTES:,} are taken",
            remedy="Export a smaller model, or its weights in FP16",
        )
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise Invalid("this is no ONNX model, or only a part of one", remedy=REMEDY) from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise Invalid("this ONNX model has no nodes, outputs or opset: it is cut off", remedy=REMEDY)
    _check_versions(model)
    if model.functions:
        raise Invalid(
            "the graph has functions of its own, which not every runtime takes",
            where=model.functions[0].name,
            remedy="Put them into the graph: onnx.inliner.inline_local_functions(model)",
        )
    graphs = list(_graphs(model.graph))
    _check_nodes(node for graph in graphs for node in graph.node)
    _check_data(graphs)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        first = str(error).strip().split("\n", 1)[0]
        raise Invalid(f"the graph is not valid ONNX: {first}", remedy=REMEDY) from error
    return model


def _check_versions(model: onnx.ModelProto) -> None:
    if model.ir_version > MAX_IR:
        raise Invalid(
            f"the graph has IR version {model.ir_version}; up to {MAX_IR} are served",
            where="ir_version",
            remedy=f"Set `model.ir_version = {MAX_IR}` before saving, or export with an older onnx",
        )
    for used in model.opset_import:
        if used.domain not in DOMAINS:
            continue  # only nodes of a domain count: exporters list more than they use
        first, last = DOMAINS[used.domain]
        if not first <= used.version <= last:
            raise Invalid(
                f"the graph uses opset {used.version} of {used.domain or 'ai.onnx'}; {first} to {last} are"
                " served",
                where="opset_import",
                remedy=f"Export with opset {last}",
            )


def _check_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        if node.domain not in DOMAINS:
            raise Invalid(
                f"the operator {node.domain}.{node.op_type} is no standard one",
                where=_named(node),
                remedy="Export with operators of ai.onnx and ai.onnx.ml only",
            )
        if node.op_type in ("Loop", "Scan"):
            raise Invalid(
                f"the graph has a {node.op_type}: nobody can say how long it takes",
                where=_named(node),
                remedy="Export without loops, for example unrolled",
            )


def _check_data(graphs: Iterable[onnx.GraphProto]) -> None:
    """Raises Invalid for a tensor that lies in another file: opening that would open any file."""
    for tensor in (tensor for graph in graphs for tensor in _tensors(graph)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
            raise Invalid(
                f"the tensor `{tensor.name}` lies in another file, {place!r}: no file is opened",
                where=tensor.name,
                remedy="Save the model whole: onnx.save(model, path, save_as_external_data=False)",
            )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those of its branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Tensors of the graph itself, without its branches'."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    yield from graph.initializer
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
    sparse = [(attribute.sparse_tensor, *attribute.sparse_tensors) for attribute in attributes]
    for one in itertools.chain(graph.sparse_initializer, *sparse):
        yield from (one.values, one.indices)


def _named(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)
