from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.rows import Rows

sys.path.insert(0, str(Path(__file__).parent))  # `family_suite`, which families of other places call too


class World:
    """Pipelines and training sets in small."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pipeline(
        self,
        fields: Mapping[str, str],
        features: Mapping[str, Mapping[str, Any]] | None = None,
        target: Mapping[str, Any] | None = None,
        **sections: Any,
    ) -> Pipeline:
        """`fields`: name → type. `features`: name → treatment; by default every field's own."""
        label = {"regression": "number", "multiclass": "category"}.get(
            (target or {}).get("type", "binary"), "boolean"
        )
        declared: dict[str, Any] = {name: {"type": kind} for name, kind in fields.items()}
        for name in sections.pop("protected", ()):
            declared[name] = {**declared.get(name, {"type": "category"}), "protected": True}
        return Pipeline.model_validate(
            {
                "version": 1,
                "pipeline": "small",
                "entities": {"row": {"key": "row_id"}},
                "sources": {
                    "rows": {
                        "entity": "row",
                        "id": "id",
                        "timestamp": "at",
                        "fields": {**declared, "y": {"type": label}},
                    }
                },
                "features": {
                    name: {"from": f"rows.{name}", **treatment}
                    for name, treatment in (features or {}).items()
                },
                "targets": {"y": {"from": "rows.y", "type": "binary", **(target or {})}},
                **sections,
            }
        )

    def part(
        self,
        name: str,
        columns: Mapping[str, Sequence[Any]],
        labels: Sequence[Any],
        classes: Sequence[str] = ("false", "true"),
    ) -> Path:
        """`columns`: features, and groups as `__group_<field>`."""
        table = pa.table(
            {
                **{key: pa.array(list(values)) for key, values in columns.items()},
                "__label": pa.array(list(labels)),
            }
        )
        path = self.folder / f"{name}.parquet"
        pq.write_table(
            table.replace_schema_metadata(
                {"penstock": json.dumps({"classes": list(classes), "target": "y"})}
            ),
            path,
        )
        return path


def rows(numbers: Any = (), strings: Any = (), count: int = 0) -> Rows:
    """Lists of columns."""
    height = count or max(len(column) for column in (*numbers, *strings))
    matrix = np.array(numbers, dtype=np.float64).T.reshape(height, len(numbers))
    texts = np.empty((height, len(strings)), dtype=object)
    for index, column in enumerate(strings):
        texts[:, index] = column
    return Rows(matrix, texts, np.zeros(height, dtype=np.int64), {})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], World]:
    """For what several tests look at."""
    return lambda: World(tmp_path_factory.mktemp("world"))


@pytest.fixture(name="rows")
def rows_fixture() -> Any:
    return rows
