"""Evaluates versions on a holdout, and decides whether a candidate may replace the champion.

Start with ``gate.py``: two evaluations and a policy → a Decision. ``statistics.py`` has its paired bootstrap. ``evaluate.py``
scores a model on a holdout with the predictor that serves it.

This package is pure: it must not import the registry, a database, Ray, `training.fit` or `training.methods`.
`training.pipeline` stores what it returns.
"""
