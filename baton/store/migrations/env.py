"""Runs migrations on the connection that `baton.store.migrations.upgrade.migrate` opened, inside its transaction."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
context.run_migrations()
