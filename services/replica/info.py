"""The answer to ``GET /info``: one object for Baton's own clients, Hugging Face's toolkit and clients of TEI.

Source of TEI's fields: github.com/huggingface/text-embeddings-inference, ``Info`` in ``router/src/lib.rs``. ``version`` is the
number of the version that serves, not the server's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.store.records import ReplicaState
from baton.tasks import task_type
from baton.tasks.text_classifier import TextClassifier
from services.replica.versions import VersionFacts


def info(settings: ModelSettings, state: ReplicaState, facts: VersionFacts | None) -> dict[str, Any]:
    """Return the model's limits and the replica's state. ``facts``: those of the version that serves, if there is one."""
    serving = settings.serving
    return {
        "model": settings.name,
        "task": settings.task,
        "base_model": settings.base_model,
        "model_id": settings.name,
        "model_sha": facts.sha256 if facts else None,
        "model_type": _model_type(settings, facts),
        "auto_truncate": True,
        "max_concurrent_requests": serving.max_queue,
        "max_input_length": settings.max_length,
        "max_batch_tokens": serving.max_batch_tokens,
        "max_client_batch_size": serving.max_inputs,
        "max_body_bytes": serving.max_body_bytes,
        "abstain_below": facts.abstain_below if facts else None,
        **asdict(state),
    }


def _model_type(settings: ModelSettings, facts: VersionFacts | None) -> dict[str, Any]:
    """Return TEI's description of a classifier; empty for other tasks, which TEI does not have."""
    if not issubclass(task_type(settings.task), TextClassifier):
        return {}
    labels = facts.labels if facts else ()
    return {
        "classifier": {
            "id2label": {str(position): label for position, label in enumerate(labels)},
            "label2id": {label: position for position, label in enumerate(labels)},
        }
    }
