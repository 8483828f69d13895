"""What a careful engineer writes without Baton: one process, the Hugging Face `Trainer`, the same data and settings.

Prints one JSON line: the holdout's macro-F1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.metrics import f1_score

from baton.base_models import find_base_model
from benchmarks.service import TRAINING, holdout_of


def main(data: Path) -> None:
    """Train on ``data/train.jsonl``, score on ``data/test.jsonl``."""
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    transformers.set_seed(0)
    train, test = (_rows(path) for path in (data / "train.jsonl", holdout_of(data)))
    labels = sorted({row["label"] for row in train})
    index = {label: number for number, label in enumerate(labels)}
    base = str(find_base_model("sentence-transformers/all-MiniLM-L6-v2"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))

    def features(rows: list[dict[str, str]]) -> list[dict[str, object]]:
        encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=TRAINING["max_length"])
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": index[row["label"]]}
            for ids, mask, row in zip(encoded["input_ids"], encoded["attention_mask"], rows, strict=True)
        ]

    with tempfile.TemporaryDirectory() as scratch:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=scratch,
                num_train_epochs=TRAINING["epochs"],
                learning_rate=TRAINING["learning_rate"],
                per_device_train_batch_size=TRAINING["batch_size"],
                per_device_eval_batch_size=64,
                warmup_steps=0.1,
                weight_decay=0.01,
                bf16=True,
                use_cpu=True,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                disable_tqdm=True,
                report_to=[],
                seed=0,
            ),
            train_dataset=features(train),
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        prediction = trainer.predict(features(test))
    f1 = f1_score(prediction.label_ids, np.argmax(prediction.predictions, axis=-1), average="macro")
    print(json.dumps({"f1": float(f1)}))


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
