"""Names that cross a border: a field's column in Parquet, DuckDB and Feast; a pipeline's Feast
project; a source's feature view.

DuckDB compares names without case, Feast's join drops columns that end in `_y`, its SQLite tables
are written unquoted. Most field names pass as they are; the few that would not get a name of their
own, always the same one.
"""

from __future__ import annotations

import hashlib
import re

ID = "__id"
ENTITY = "__entity"
TIME = "__time"  # event time
INGESTED = "__ingested"  # when ingest published the record
PARTITION = "__partition"  # the event's; with OFFSET its place on its topic, and the row's identity
OFFSET = "__offset"
RECORD = "__record"  # the record's offset on the records topic, same partition
TRACE = "__traceparent"

# The online store's own features: which event a row came from, since Feast keeps event times there
# in whole seconds; and the row once more, as it is answered.
ORIGIN = "__origin"
ROW = "__row"

_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TAKEN = frozenset(
    {
        "event_timestamp",
        "created_timestamp",
        "event_expire_timestamp",
        "entity_row_id",
        "rn",
        "row",
        "file_row_number",
    }
)


def column_of(field: str) -> str:
    """The column of a field in the lake and in Feast."""
    if _PLAIN.fullmatch(field) and not field.endswith(("_y", "_yyyy")) and field not in _TAKEN:
        return field
    return f"f_{field.lower()}_{hashlib.blake2b(field.encode(), digest_size=4).hexdigest()}"


def project_of(pipeline: str) -> str:
    """Pipeline names hold no underscore, so no two pipelines share a project."""
    return pipeline.replace("-", "_")


def view_of(source: str) -> str:
    return source.replace("-", "_")
