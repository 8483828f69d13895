"""What replicas and the control plane both answer in the Open Inference Protocol: what the server is, and which models it has.

Sources: github.com/kserve/open-inference-protocol (``rest/inference_rest.yaml``), and Triton's model repository extension
(github.com/triton-inference-server/server, ``docs/protocol/extension_model_repository.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from baton import __version__
from baton.errors import InvalidInput, MalformedRequest
from baton.validation import short_repr

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository(index)")


def server_metadata() -> dict[str, Any]:
    """Return the answer to ``GET v2``."""
    return {"name": "baton", "version": __version__, "extensions": EXTENSIONS}


def repository_index(body: bytes, models: Mapping[str, tuple[int | None, str]]) -> list[dict[str, str]]:
    """Return the answer to ``POST v2/repository/index``.

    Args:
        body: of the request: empty, or ``{"ready": true}`` for the models that are ready only.
        models: for each model the version that serves, and the reason if there is none.

    Raises:
        MalformedRequest: ``body`` is not a JSON object.
        InvalidInput: it has another key or value.
    """
    try:
        content = from_json(body) if body.strip() else {}
    except ValueError as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise MalformedRequest('the body must be empty or a JSON object, for example {"ready": true}')
    if content.keys() - {"ready"} or not isinstance(content.get("ready", False), bool):
        raise InvalidInput(f'{short_repr(content)} is not allowed; allowed: {{"ready": true}} or {{"ready": false}}')
    return [
        {"name": name, "version": str(version), "state": "READY", "reason": ""}
        if version is not None
        else {"name": name, "state": "UNAVAILABLE", "reason": reason}
        for name, (version, reason) in models.items()
        if version is not None or not content.get("ready", False)
    ]
