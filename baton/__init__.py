"""What training and serving must agree on: tasks, predictor, registry, storage, configuration.

Must not import Ray, a web framework, `training` or `services`.

Start with `tasks/base.py` (the contract of a task) and `predict/predictor.py` (one forward pass, in evaluation and in serving).
Then read `config/file.py` (``baton.yaml``), `store/registry.py` (the database) and `artifacts/storage.py` (the files).
`client.py` is for applications that call Baton.
"""

__version__ = "0.1.0"
