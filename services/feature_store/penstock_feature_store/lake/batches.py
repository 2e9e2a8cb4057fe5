"""Records as Arrow tables. Pure: values in, table out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import structlog
from pydantic import TypeAdapter, ValidationError

from penstock.contracts.dataplane import Record
from penstock.contracts.errors import Invalid
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
    """A message of a records topic; Kafka's timestamp is when ingest published it."""

    offset: int
    timestamp_ms: int
    value: bytes


def source_schema(source: Source) -> pa.Schema:
    """The lake's columns for a source as it is declared now."""
    fields = [pa.field(names.column_of(name), TYPES[field.type]) for name, field in source.fields.items()]
    return pa.schema([*META, *fields])


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def divided(received: Sequence[Received], schema: pa.Schema) -> tuple[pa.Table, list[tuple[int, Exception]]]:
    """The rows of those records that are records and fit `schema`, and the others' offsets, each with
    what is wrong with it; no value is told.
    """
    try:
        return table_of(received, schema), []
    except Exception as error:  # whatever it is: each is looked at alone
        log.warning("batch_divided", records=len(received), why=type(error).__name__)
    fit: list[Received] = []
    unfit: list[tuple[int, Exception]] = []
    for one in received:
        try:
            # Of a field that nobody declared yet, the first value's type is the others'.
            schema = united([schema, _alone(one, schema).schema])
            fit.append(one)
        except Invalid as error:
            unfit.append((one.offset, error))
    return table_of(fit, schema), unfit


def _alone(received: Received, schema: pa.Schema) -> pa.Table:
    """Raises Invalid."""
    try:
        _RECORD.validate_json(received.value, strict=True)
        return table_of([received], schema)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Invalid(f"no record: {first['msg']}", where=".".join(map(str, first["loc"][:2]))) from None
    except (pa.ArrowException, OverflowError, ValueError):
        raise Invalid("no record: its time or a number is beyond what a column holds") from None


CHUNK = 2_000  # records decoded at a time: as Python objects they take many times their bytes


def table_of(received: Sequence[Received], schema: pa.Schema) -> pa.Table:
    """The rows in the order they came. A field that `schema` does not know yet (ingest was told of
    a change first) keeps its values: its type is that of the values. A known field that no record
    carries is missing. Raises what a record that is none makes it raise.
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
        values = [row.get(name) for row in fields]
        kind = declared or _type_of(values)
        if kind is not None:
            columns[column] = _array(name, values, kind)
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


def _array(name: str, values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise Invalid(f"its type is not the column's, {kind}", where=f"fields.{name}") from None


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
