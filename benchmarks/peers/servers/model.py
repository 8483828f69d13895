"""What each peer serves: the tokenizer and the exported model of a directory, one thread, the best five labels of each text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MAX_LENGTH = 128
BEST = 5


class Model:
    """Classifies texts with ONNX Runtime."""

    def __init__(self, directory: str, file: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(f"{directory}/{file}", options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
        self._tokenizer.enable_truncation(MAX_LENGTH)
        self._tokenizer.enable_padding()
        self._labels = json.loads(Path(directory, "config.json").read_text())["id2label"]
        self.predict(["warm up", "warm up a little more"])

    def predict(self, texts: list[str]) -> list[list[dict[str, object]]]:
        """Return the best labels of each text with their probabilities."""
        encoded = self._tokenizer.encode_batch(texts)
        inputs = {
            "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
            "token_type_ids": np.array([one.type_ids for one in encoded], dtype=np.int64),
        }
        [logits] = self._session.run(["logits"], inputs)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        best = np.argsort(-scores, axis=1)[:, :BEST]
        return [
            [{"label": self._labels[str(label)], "score": float(row[label])} for label in order]
            for row, order in zip(scores, best, strict=True)
        ]

    def predict_many(self, requests: list[str | list[str]]) -> list[list[list[dict[str, object]]]]:
        """Return the answers of requests, each of one text or several, from one forward pass."""
        lists = [[one] if isinstance(one, str) else one for one in requests]
        answers = iter(self.predict([text for texts in lists for text in texts]))
        return [[next(answers) for _ in texts] for texts in lists]
