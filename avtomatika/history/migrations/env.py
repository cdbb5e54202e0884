"""Alembic's own entry point: it runs on the connection that `upgrade` gives it."""

from alembic import context

from avtomatika.history.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table="history_version", transactional_ddl=True)
context.run_migrations()
