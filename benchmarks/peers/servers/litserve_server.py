"""LitServe: dynamic batches of at most 32 requests, two workers. ``python litserve_server.py DIRECTORY FILE PORT``."""

import sys
from typing import Any

import litserve
from model import Model


class Classifier(litserve.LitAPI):
    """The model behind LitServe's batching."""

    def setup(self, device: str) -> None:
        """Load the model in a worker."""
        self.model = Model(sys.argv[1], sys.argv[2])

    def decode_request(self, request: dict) -> Any:  # LitServe reads this annotation: a body
        """Return the texts of a request."""
        return request["inputs"]

    def predict(self, inputs: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self.model.predict_many(inputs)

    def encode_response(self, output: Any) -> Any:
        """Return the answer as it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=32, batch_timeout=0.002, api_path="/"), accelerator="cpu", workers_per_device=2, timeout=60
    )
    server.run(port=int(sys.argv[3]), host="127.0.0.1", log_level="error", generate_client_file=False, access_log=False)
