"""Files and feedback → a frozen, validated, leak-free data set; then rows → the batches of a `Trainer`.

Start with ``datasets.py``, whose `freeze` calls the others: ``sources.py`` reads files, ``merging.py`` assigns every row to a
split (train or holdout), and ``splits.py`` draws splits by a stable hash. For training, ``replay.py`` selects the rows of a
run, ``augmentation.py`` changes their texts, and ``batches.py`` encodes them.

This package must not import the rest of `training`, the registry or Ray.
"""
