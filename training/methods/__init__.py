"""The ways to make a model: fine-tuning, few-shot, cross-validation (folds), hyper-parameter search, and domain adaptation.

Start with ``choose.py``, which selects the way by the model's settings. Each way has a module with a function that takes a
`TrainingRequest` and yields a `Trained` checkpoint. ``adaptation.py``, ``pruning.py`` and ``probe.py`` prepare what any of them
starts from, ``teaching.py`` a teacher to imitate. ``suspects.py`` uses a probe to find rows with wrong labels.

This package builds on `training.fit` and `training.data`. It must not import `training.judge` or `training.pipeline`, and never
`services`. It makes checkpoints; it does not evaluate them on the holdout or publish them.
"""
