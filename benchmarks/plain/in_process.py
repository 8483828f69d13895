"""Measure the limit of serving: the same predictor in a bare loop, without HTTP, batching and Ray.

Prints one JSON line: texts per second, by batch size.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from baton.artifacts.manifest import Manifest
from baton.config.serving_settings import ServingSettings
from baton.predict.predictor import Predictor

BATCHES = (1, 8, 32, 64)
SECONDS = 3.0


def main(directory: Path, threads: int, texts_file: Path, precision: str = "auto") -> None:
    """Measure the version in ``directory`` and print the result."""
    manifest = Manifest.from_bytes((directory / "baton.json").read_bytes(), str(directory))
    serving = ServingSettings.model_validate({"precision": precision})
    predictor = Predictor.load(directory, manifest, serving, threads=threads)
    predictor.warm()
    inputs = [predictor.task.from_wire(text) for text in json.loads(texts_file.read_text())]
    print(json.dumps({size: _rate(predictor, inputs, size) for size in BATCHES}))


def _rate(predictor: Predictor, inputs: list[object], size: int) -> float:
    done, position, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        batch = [inputs[(position + step) % len(inputs)] for step in range(size)]
        position += size
        predictor.predict(batch)
        done += size
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
