"""Decision trees as LightGBM writes them, and as one node of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from onnx import numpy_helper

from penstock.modelkit.graph import DOUBLE, ML, Array, Graph

# Bits of LightGBM's `decision_type`. Missing type, two bits: none in training 0, NaN 2.
CATEGORY, DEFAULT_LEFT, MISSING_IS_NAN = 1, 2, 8
# LightGBM takes what is at most this far from 0 for 0, and splits zeros from what is less at -ZERO.
ZERO = float(np.float32(1e-35))


class Buckets(NamedTuple):
    """A set of a column's buckets."""

    column: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """Splits from the root, number 0, on, and leaves. A child is a split's number, or ~ a leaf's.

    A row goes left where its column is at most the threshold, or, with a set of buckets, where its
    bucket is one of them; where it is missing, as `missing_left` says.
    """

    columns: Array  # int64 [S]
    thresholds: Array  # float64 [S]
    sets: tuple[tuple[int, ...], ...]  # [S], empty for a number
    missing_left: Array  # bool [S]
    left: Array  # int64 [S]
    right: Array  # int64 [S]
    leaves: Array  # float64 [S + 1]

    def content(self) -> bytes:
        """Equal for equal trees alone."""
        arrays = (self.columns, self.thresholds, self.missing_left, self.left, self.right, self.leaves)
        return b"".join([repr(self.sets).encode(), *(values.tobytes() for values in arrays)])

    def wide(self) -> Iterator[Buckets]:
        """Sets of more than one bucket."""
        for column, members in zip(self.columns, self.sets, strict=True):
            if len(members) > 1:
                yield Buckets(int(column), members)


def read_trees(text: str) -> tuple[Tree, ...]:
    """Trees of `Booster.model_to_string`, whose numbers have all their digits."""
    return tuple(_tree(block) for block in text.partition("\nend of trees")[0].split("\nTree=")[1:])


def _tree(block: str) -> Tree:
    lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)

    def values(key: str, dtype: type[np.generic]) -> Array:
        return np.array(lines.get(key, "").split(), dtype=dtype)

    thresholds, kinds = values("threshold", np.float64), values("decision_type", np.int64)
    bounds, words = values("cat_boundaries", np.int64), values("cat_threshold", np.uint32)
    is_set = (kinds & CATEGORY) > 0
    # Without missing values in training LightGBM takes NaN for 0.
    missing_left = np.where(kinds & MISSING_IS_NAN, kinds & DEFAULT_LEFT, thresholds >= 0)
    return Tree(
        columns=values("split_feature", np.int64),
        thresholds=thresholds,
        sets=tuple(
            _members(words[bounds[int(at)] : bounds[int(at) + 1]]) if of_category else ()
            for at, of_category in zip(thresholds, is_set, strict=True)
        ),
        missing_left=(missing_left != 0) & ~is_set,
        left=values("left_child", np.int64),
        right=values("right_child", np.int64),
        leaves=values("leaf_value", np.float64),
    )


def _members(words: Array) -> tuple[int, ...]:
    """Numbers of the bits that are set."""
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return tuple(np.flatnonzero(bits).tolist())


@dataclass(frozen=True, slots=True)
class Columns:
    """Layout of the columns that trees ask about: `numbers` columns, then a column of buckets for
    each entry of `sizes`, which says how many buckets it has.
    """

    numbers: int
    sizes: tuple[int, ...]

    @property
    def categories(self) -> tuple[int, ...]:
        """The columns of buckets."""
        return tuple(range(self.numbers, self.numbers + len(self.sizes)))

    def compile(self, graph: Graph, raw: str | None, buckets: str | None, sets: Sequence[Buckets]) -> str:
        """Nodes for FP64 [N, columns + sets]: the columns, and for each set 1 where the row's bucket
        is one of it. raw: FP64, buckets: INT64 in the graph. Sets of one column lie together.
        """
        parts = [raw] if raw else []
        if buckets:
            parts.append(graph.op("Cast", buckets, to=DOUBLE))
            for column, of_column in groupby(sets, key=lambda one: one.column):
                members = [one.members for one in of_column]
                table = np.zeros((self.sizes[column - self.numbers], len(members)))
                for index, chosen in enumerate(members):
                    table[list(chosen), index] = 1
                bucket = graph.columns(buckets, [column - self.numbers])
                flat = graph.op("Reshape", bucket, graph.constant([-1], np.int64))
                parts.append(graph.op("Gather", graph.constant(table, np.float64), flat, axis=0))
        return graph.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def compile_trees(
    graph: Graph,
    trees: Sequence[Tree],
    columns: Columns,
    raw: str | None,
    buckets: str | None,
    *,
    outputs: int = 1,
    offset: float = 0.0,
    spread: float = 1.0,
) -> str:
    """Nodes for the trees' sum x `spread` + `offset`, FP32 [N, outputs]; tree i is of output
    i mod `outputs`.

    Thresholds and leaves are FP64 as the numbers that meet them, and so is the sum: in FP32 an amount
    with cents falls on the other side. A split by one bucket asks whether the column equals it, one
    by more whether the set's own column equals 1.
    """
    wide = sorted({one for tree in trees for one in tree.wide()})
    places = {one: index for index, one in enumerate(wide, columns.numbers + len(columns.sizes))}
    nodes = [_nodes(tree, places) for tree in trees]
    leaves = [len(tree.leaves) for tree in trees]
    numbered = range(len(trees))

    def joined(key: str) -> Array:
        return np.concatenate([part[key] for part in nodes])

    return graph.op(
        "TreeEnsembleRegressor",
        columns.compile(graph, raw, buckets, wide),
        domain=ML,
        n_targets=outputs,
        base_values_as_tensor=numpy_helper.from_array(np.full(outputs, offset)),
        nodes_treeids=np.repeat(numbered, [2 * count - 1 for count in leaves]).tolist(),
        nodes_values_as_tensor=numpy_helper.from_array(joined("nodes_values")),
        **{key: joined(key).tolist() for key in nodes[0] if key != "nodes_values"},
        target_treeids=np.repeat(numbered, leaves).tolist(),
        target_ids=np.repeat([index % outputs for index in numbered], leaves).tolist(),
        target_weights_as_tensor=numpy_helper.from_array(
            np.concatenate([tree.leaves for tree in trees]) * spread
        ),
    )


def _nodes(tree: Tree, places: Mapping[Buckets, int]) -> dict[str, Array]:
    """A tree's attributes of the node: its splits first, then its leaves."""
    splits, count = len(tree.columns), len(tree.leaves)
    features = tree.columns.copy()
    values = np.where(tree.thresholds == -ZERO, np.nextafter(-ZERO, -np.inf), tree.thresholds)
    modes = np.full(splits + count, "BRANCH_LEQ", dtype=object)
    modes[splits:] = "LEAF"
    for split, members in enumerate(tree.sets):
        if members:
            modes[split] = "BRANCH_EQ"
            values[split] = members[0] if len(members) == 1 else 1.0
            features[split] = places.get(Buckets(int(features[split]), members), features[split])
    none, whole = np.zeros(count), np.zeros(count, dtype=np.int64)
    yes, no = (np.where(child < 0, splits + ~child, child) for child in (tree.left, tree.right))
    return {
        "nodes_nodeids": np.arange(splits + count),
        "nodes_featureids": np.concatenate([features, whole]),
        "nodes_modes": modes,
        "nodes_values": np.concatenate([values, none]),
        "nodes_truenodeids": np.concatenate([yes, whole]),
        "nodes_falsenodeids": np.concatenate([no, whole]),
        "nodes_missing_value_tracks_true": np.concatenate([tree.missing_left.astype(np.int64), whole]),
        "target_nodeids": splits + np.arange(count),
    }
