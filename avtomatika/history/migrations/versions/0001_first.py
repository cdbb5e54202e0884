"""Jobs, events, workers, and how far they are written"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", ID, primary_key=True),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("blueprint", sa.Text, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("event_count", sa.Integer, nullable=False),
        sa.Column("last_hash", sa.String(64), nullable=False),
        sa.Column("expired", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index("job_created", "job", ["created_at", "id"])
    op.create_index("job_client_created", "job", ["client", "created_at", "id"])
    op.create_index("job_blueprint_created", "job", ["blueprint", "created_at", "id"])
    op.create_index("job_status_created", "job", ["status", "created_at", "id"])
    op.create_index("job_ended", "job", ["ended_at"])
    op.create_index("job_expired", "job", ["expired"])
    op.create_table(
        "event",
        sa.Column("job_id", ID, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("state", sa.Text),
        sa.Column("next_state", sa.Text),
        sa.Column("task_id", sa.Text),
        sa.Column("task_type", sa.Text),
        sa.Column("worker_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        sa.Column("duration_ms", sa.Double),
        sa.Column("outcome", sa.Text),
        sa.Column("cost", sa.Double),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    known = sa.text("outcome IS NOT NULL")
    op.create_index("event_outcome_at", "event", ["at"], postgresql_where=known, sqlite_where=known)
    op.create_table(
        "worker",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("cost_per_second", sa.Double, nullable=False),
        sa.Column("cost_per_skill", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.Double, nullable=False),
        sa.Column("last_seen_at", sa.Double, nullable=False),
    )
    op.create_table(
        "history_position",
        sa.Column("namespace", sa.String(200), primary_key=True),
        sa.Column("entry", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    for name in ("history_position", "worker", "event", "job"):
        op.drop_table(name)
