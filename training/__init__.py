"""Makes model versions and decides which may replace the champion. Runs as a job on the Ray cluster: ``python -m training``.

Start with ``pipeline.py``, the loop from data to decision. Its steps are in the rooms: ``data`` (files and feedback → a frozen
data set), ``methods`` (ways to make a checkpoint), ``fit`` (what driver and workers of a run do), ``judge`` (evaluation and
gate). ``registration.py`` is the way of a version that was trained elsewhere. ``__main__.py`` reads the environment and
records how a run ends.

This package must not import `services`, and knows nothing of HTTP: it meets the service in the registry and the storage.
"""
