"""Training without Baton, as a careful engineer writes it: one process, the Hugging Face `Trainer`, the same data and settings.

Contains the functions that all tasks share, and the script for classification. ``python -m benchmarks.plain.trainer DIRECTORY
SEED`` prints one JSON line: macro-F1 on the holdout.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from baton.config.base_models import find_base_model
from benchmarks.service import BASE_MODEL, SUBJECTS, Recipe, holdout_of, read_rows, train_of

Features = list[dict[str, Any]]
"""A dict for each window: ``input_ids``, ``attention_mask``, and the model's other inputs."""


def main(data: Path, seed: int) -> None:
    """Train on the texts and labels in ``data``, and print the score on its holdout."""
    recipe = replace(SUBJECTS["classification"].recipe, seed=seed)
    base, tokenizer = load_base(recipe)
    train, test = read_rows(train_of(data)), read_rows(holdout_of(data))
    labels = sorted({row["label"] for row in train})
    index = {label: number for number, label in enumerate(labels)}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))

    def features(rows: Sequence[dict[str, Any]]) -> Features:
        encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=recipe.max_length)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": index[row["label"]]}
            for ids, mask, row in zip(encoded["input_ids"], encoded["attention_mask"], rows, strict=True)
        ]

    trainer = fit(model, tokenizer, transformers.DataCollatorWithPadding(tokenizer), features(train), recipe)
    (logits,) = predict(trainer, features(test))
    f1 = f1_score([index[row["label"]] for row in test], np.argmax(logits, axis=-1), average="macro")
    print(json.dumps({"f1": float(f1)}))


def load_base(recipe: Recipe) -> tuple[str, Any]:
    """Return the base model's directory and its tokenizer. Set the number of threads to all cores, and all random seeds."""
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    transformers.set_seed(recipe.seed)
    base = str(find_base_model(BASE_MODEL))
    return base, transformers.AutoTokenizer.from_pretrained(base)


def fit(model: Any, tokenizer: Any, collator: Callable[..., Any], features: Features, recipe: Recipe) -> Any:
    """Train ``model`` and return its `Trainer`."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=scratch,
                num_train_epochs=recipe.epochs,
                learning_rate=recipe.learning_rate,
                per_device_train_batch_size=recipe.batch_size,
                per_device_eval_batch_size=64,
                warmup_steps=recipe.warmup_ratio,
                weight_decay=recipe.weight_decay,
                bf16=True,
                use_cpu=True,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                disable_tqdm=True,
                report_to=[],
                seed=recipe.seed,
            ),
            train_dataset=features,
            processing_class=tokenizer,
            data_collator=collator,
        )
        trainer.train()
    return trainer


def predict(trainer: Any, features: Features) -> tuple[NDArray[np.float32], ...]:
    """Return the model's outputs for ``features``, in their order. Outputs of tokens are padded to the longest window."""
    order = np.argsort([len(window["input_ids"]) for window in features], kind="stable")  # keeps padding low
    trainer.args.train_sampling_strategy = "random"  # grouping by length would shuffle the predictions, too
    outputs = trainer.predict([features[index] for index in order]).predictions
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    back = np.argsort(order)
    return tuple(head[back] for head in heads)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
