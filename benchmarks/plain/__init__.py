"""What Baton is compared to: training scripts with the plain Hugging Face `Trainer`, and prediction in a bare loop.

The scripts use no part of Baton except the bundled base model; `in_process` measures Baton's own predictor. Each module runs
in a separate process and prints one JSON line. Start reading with `trainer`.
"""
