"""trial of a study's run"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("run_trial", sa.Integer(), nullable=True))
    # The run of a completed study is that of its best trial.
    op.execute("UPDATE studies SET run_trial = best WHERE run_id IS NOT NULL")
