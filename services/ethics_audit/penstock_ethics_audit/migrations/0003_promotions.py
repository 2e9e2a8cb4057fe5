"""promotions"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "promotions",
        sa.Column("pipeline", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("promoted", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "generation"),
    )
    op.create_index("ix_promotions_digest", "promotions", ["digest"])
