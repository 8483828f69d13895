"""BentoML: adaptive batches of at most 32 requests, two workers. Served by ``bentoml serve bentoml_server:Classifier``."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from model import Model


@bentoml.service(workers=2, traffic={"timeout": 60, "max_concurrency": 1024})
class Classifier:
    """The model behind BentoML's batching."""

    def __init__(self) -> None:
        self.model = Model(os.environ["PEER_DIRECTORY"], os.environ["PEER_FILE"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000, route="/predict")
    def predict(self, inputs: list[str]) -> list[Any]:
        """Answer a batch of texts; a client sends a list."""
        return self.model.predict(inputs)
