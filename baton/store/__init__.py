"""What the database keeps: models, versions, runs, decisions, data sets, feedback and API keys (SQLAlchemy, Alembic).

Must not know tasks, the artifact storage, Ray or HTTP.

Start with `registry.py`: `Registry` opens the database, moves the champion pointer, and holds one store for each other
subject (`version_store.py`, `run_store.py`, `dataset_store.py`, …; the folder `feedback` has those of the prediction log and of
corrections). Then read `records.py` (the records that stores take and return), `schema.py` (the tables) and `database.py`
(connections and transactions).
"""
