"""Fine-tuning: what a run starts from, what its driver asks of Ray, and what each worker does.

Start with ``request.py`` (the records between driver and workers), then ``trainer.py`` (the driver) and ``worker.py`` (one
worker, which builds the `transformers.Trainer`). ``start.py`` and ``weights.py`` choose the rows and the weights to start from.

This package must not import `training.methods`, `training.judge` or `training.pipeline`, and never `services`. It reports the
progress of a run to the registry, but does not publish versions.
"""
