"""Measures Baton. Most modules are one benchmark; each writes its section of RESULTS.md with the command that repeats it.

``python -m benchmarks`` runs training, serving, the hand-over and metrics against one service. The other modules are run by
themselves. Start reading with `service` (models, data and the service that is measured) and `__main__` (how a section is
written). `plain` contains what Baton is compared to; `online` measures automatic retraining.
"""
