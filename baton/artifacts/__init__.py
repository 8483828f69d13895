"""What the artifact storage keeps: the files of versions, frozen data sets and checkpoints (any fsspec file system).

Must not know the registry, Ray or HTTP. Of `baton.store` it imports only the records.

Start with `storage.py`: `Storage` publishes and fetches. Then read `manifest.py` (``baton.json``, which pins every file of a
version) and `frozen.py` (the format of frozen data sets).
"""
