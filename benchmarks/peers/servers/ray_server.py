"""Ray Serve as its documentation shows it: ``@serve.batch``, two replicas. ``python ray_server.py DIRECTORY FILE PORT``."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from model import Model
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=2, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Classifier:
    """The model behind Ray Serve's batching."""

    def __init__(self, directory: str, file: str) -> None:
        self.model = Model(directory, file)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def predict(self, inputs: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self.model.predict_many(inputs)

    async def __call__(self, request: Request) -> Any:
        """Answer one request."""
        return await self.predict((await request.json())["inputs"])


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[3])})
    serve.run(Classifier.bind(sys.argv[1], sys.argv[2]))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
