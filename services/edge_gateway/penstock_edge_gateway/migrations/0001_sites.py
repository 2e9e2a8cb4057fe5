"""sites and erasures"""

import sqlalchemy as sa
from alembic import op

from penstock.runtime.tables import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sites",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.Column("key", sa.String(length=64), nullable=True),
        sa.Column("token", sa.String(length=64), nullable=True),
        sa.Column("token_expires_at", UtcDateTime(), nullable=True),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("last_contact", UtcDateTime(), nullable=True),
        sa.Column("clock_ahead_s", sa.Double(), nullable=True),
        sa.Column("status", sa.LargeBinary(), nullable=True),
        sa.Column("erased", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("key"),
        sa.UniqueConstraint("token"),
    )
    op.create_table(
        "erasures",
        sa.Column("serial", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("serial"),
    )
