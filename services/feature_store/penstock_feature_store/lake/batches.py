"""Records as Arrow tables. Pure: values in, table out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import structlog

from penstock.contracts.pipeline import Source
from penstock_feature_store import names

log = structlog.get_logger(__name__)

# Arrow types by a field's declared type.
TYPES: Mapping[str, pa.DataType] = {
    "number": pa.float64(),
    "category": pa.string(),
    "text": pa.string(),
    "boolean": pa.bool_(),
}
_TIMESTAMP = pa.timestamp("us", tz="UTC")

META = pa.schema(
    [
        pa.field(names.ID, pa.string(), nullable=False),
        pa.field(names.ENTITY, pa.string(), nullable=False),
        pa.field(names.TIME, _TIMESTAMP, nullable=False),
        pa.field(names.INGESTED, _TIMESTAMP),
        pa.field(names.PARTITION, pa.int32(), nullable=False),
        pa.field(names.OFFSET, pa.int64(), nullable=False),
        pa.field(names.RECORD, pa.int64(), nullable=False),
        pa.field(names.TRACE, pa.string()),
    ]
)


class Received(NamedTuple):
    """One message of a records topic; Kafka's timestamp is when ingest published it."""

    offset: int
    timestamp_ms: int
    value: bytes


def source_schema(source: Source) -> pa.Schema:
    """The lake's columns for a source as it is declared now."""
    fields = [pa.field(names.column_of(name), TYPES[field.type]) for name, field in source.fields.items()]
    return pa.schema([*META, *fields])


CHUNK = 2_000  # records decoded at a time: as Python objects they take many times their bytes


def table_of(received: Sequence[Received], schema: pa.Schema) -> pa.Table:
    """The rows in the order they came. A field that `schema` does not know yet (ingest was told of
    a change first) keeps its values: its type is that of the values. A known field that no record
    carries is missing.
    """
    parts = [
        _decoded(received[start : start + CHUNK], schema) for start in range(0, max(len(received), 1), CHUNK)
    ]
    whole = united(part.schema for part in parts)
    return pa.concat_tables([conform(part, whole) for part in parts]).combine_chunks()


def _decoded(received: Sequence[Received], schema: pa.Schema) -> pa.Table:
    records: list[dict[str, Any]] = [orjson.loads(message.value) for message in received]
    published = pa.array([message.timestamp_ms for message in received], pa.timestamp("ms", tz="UTC"))
    columns: dict[str, pa.Array] = {
        names.ID: pa.array([record["id"] for record in records], pa.string()),
        names.ENTITY: pa.array([record["entity"] for record in records], pa.string()),
        names.TIME: pa.array([record["time"] for record in records], pa.string()).cast(_TIMESTAMP),
        names.INGESTED: published.cast(_TIMESTAMP),
        names.PARTITION: pa.array([record["partition"] for record in records], pa.int32()),
        names.OFFSET: pa.array([record["offset"] for record in records], pa.int64()),
        names.RECORD: pa.array([message.offset for message in received], pa.int64()),
        names.TRACE: pa.array([record.get("traceparent") for record in records], pa.string()),
    }
    fields = [record["fields"] for record in records]
    for name in dict.fromkeys(name for row in fields for name in row):
        column = names.column_of(name)
        declared = schema.field(column).type if column in schema.names else None
        array = _array([row.get(name) for row in fields], declared)
        if array is not None:
            columns[column] = array
    added = [pa.field(column, array.type) for column, array in columns.items() if column not in META.names]
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema([*META, *added]))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`, missing ones null. Raises pa.ArrowInvalid where a value
    does not fit the type.
    """
    arrays = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def united(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Every column that occurs, by the type of the last schema that has it."""
    columns = {field.name: field for schema in [META, *schemas, META] for field in schema}
    return pa.schema([column.remove_metadata() for column in columns.values()])


def _array(values: Sequence[Any], declared: pa.DataType | None) -> pa.Array | None:
    """None where neither the declaration nor a value says the type. What ingest let pass is kept,
    whatever we were told so far.
    """
    kind = _type_of(values)
    if declared is not None:
        try:
            return pa.array(values, declared)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            log.warning("values_of_another_type", declared=str(declared), found=str(kind))
    return None if kind is None else pa.array(values, kind)


def _type_of(values: Sequence[Any]) -> pa.DataType | None:
    match next((value for value in values if value is not None), None):
        case None:
            return None
        case bool():
            return pa.bool_()
        case int() | float():
            return pa.float64()
        case _:
            return pa.string()
