"""audit rows"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("audits", schema=None) as batch_op:
        batch_op.add_column(sa.Column("audit_rows", sa.String(length=80), nullable=True))
        batch_op.create_index(batch_op.f("ix_audits_audit_rows"), ["audit_rows"], unique=False)
    audits = sa.table(
        "audits", sa.column("audit_id"), sa.column("version", sa.JSON()), sa.column("audit_rows")
    )
    connection = op.get_bind()
    for audit_id, version in connection.execute(sa.select(audits.c.audit_id, audits.c.version)).all():
        made = version["training_set"]
        ranges = sorted(
            [one["topic"], one["partition"], one["first"], one["last"]] for one in made["offsets"]
        )
        named = json.dumps([ranges, sorted(made["rows"].items())]).encode()
        digest = f"sha256:{hashlib.sha256(named).hexdigest()}"
        connection.execute(audits.update().where(audits.c.audit_id == audit_id).values(audit_rows=digest))
