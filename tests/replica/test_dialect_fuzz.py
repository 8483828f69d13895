"""No body, however mutated, is answered with a 5xx in any dialect, and none harms its neighbours."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.dialects import INPUTS, world
from tests.support.replica import served

ROUNDS = 120
"""Mutated requests of each dialect and task."""

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    10**30,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\ud800",
    "\x00",
    "a" * 3000,
    "日本語 😀",
    [],
    {},
    [[]],
    [None],
    {"text": "a", "text_pair": None},
    ["a"] * 9,
    "[1, 2",
]
KEYS = ("inputs", "parameters", "top_k", "shape", "data", "name", "classification", "binary_data_size", "stride", "instances")
OPTIONS = (
    "top_k",
    "stride",
    "doc_stride",
    "max_answer_len",
    "max_seq_len",
    "max_question_len",
    "aggregation_strategy",
    "ignore_labels",
    "function_to_apply",
)


@dataclass(frozen=True)
class Body:
    """A request body with the headers that describe it."""

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


def valid(task: str) -> dict[str, Callable[[random.Random], Any]]:
    """For each path a good request as JSON."""
    rows = [row if isinstance(row, dict) else {"text": row} for row in INPUTS[task]]
    tensors = [{"name": name, "shape": [2], "datatype": "BYTES", "data": [row[name] for row in rows]} for name in rows[0]]

    def parameters(source: random.Random) -> dict[str, Any]:
        return {source.choice(OPTIONS): source.choice([*VALUES, 1, 2, 20])} if source.random() < 0.6 else {}

    return {
        "": lambda source: {"inputs": INPUTS[task], "parameters": parameters(source)},
        "/predict": lambda source: {"inputs": [["a"], ["b", "c"]], "raw_scores": False},
        "/v2/models/m/infer": lambda source: {
            "id": "1",
            "inputs": tensors,
            "outputs": [{"name": "output", "parameters": {"classification": 2}}],
            "parameters": parameters(source),
        },
        "/v1/models/m:predict": lambda source: {"instances": INPUTS[task], "parameters": parameters(source)},
    }


def change_value(content: Any, source: random.Random) -> Any:
    """``content`` with one value, key or element changed, somewhere."""
    if isinstance(content, dict) and content and source.random() < 0.85:
        key = source.choice(list(content))
        if source.random() < 0.15:
            return {source.choice(KEYS) if name == key else name: value for name, value in content.items()}
        return {**content, key: change_value(content[key], source)}
    if isinstance(content, list) and content and source.random() < 0.85:
        position = source.randrange(len(content))
        return [*content[:position], change_value(content[position], source), *content[position + 1 :]]
    return source.choice(VALUES)


def dump(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")


def in_binary(content: Any, source: random.Random) -> Body:
    """The tensors of ``content`` as binary data, with lengths that may lie."""
    parts = []
    for tensor in content["inputs"]:
        items = [str(item).encode() for item in tensor.pop("data")]
        lengths = [len(item) if source.random() < 0.7 else source.choice([0, 1, 5, 2**31, 2**32 - 1]) for item in items]
        parts.append(b"".join(struct.pack("<I", length) + item for length, item in zip(lengths, items, strict=True)))
        size = len(parts[-1]) if source.random() < 0.7 else source.choice([-1, 0, 3, 10**9, "7", None])
        tensor["parameters"] = {"binary_data_size": size}
    head = dump(content)
    length = len(head) if source.random() < 0.8 else source.choice([0, 1, len(head) - 1, len(head) + 3, 10**9])
    return Body(head + b"".join(parts), {"inference-header-content-length": str(length)})


def mutate(content: Any, path: str, source: random.Random) -> Body:
    kind = source.choice(["value", "value", "value", "bytes", "truncate", "nest", "pack", "binary"])
    if kind == "binary" and path.startswith("/v2"):
        return in_binary(json.loads(dump(content)), source)
    if kind == "nest":
        deep = b"[" * source.choice([50, 190, 5000])
        return Body(dump(content).replace(b'"a"', deep, 1) if source.random() < 0.5 else deep)
    body = dump(change_value(content, source) if kind in ("value", "binary") else content)
    if kind == "truncate":
        return Body(body[: source.randrange(len(body))])
    if kind == "bytes":
        position = source.randrange(len(body))
        return Body(body[:position] + bytes(source.randrange(256) for _ in range(3)) + body[position + 2 :])
    if kind == "pack":
        name, pack = source.choice([("gzip", gzip.compress), ("deflate", zlib.compress)])
        packed = pack(source.choice([body, b" " * 5_000_000, b"[" * 900_000]))
        return Body(packed[: source.randrange(len(packed))] if source.random() < 0.5 else packed, {"content-encoding": name})
    return Body(body)


@pytest.mark.parametrize("task", ["classification", "multi_label", "ner", "qa", "seq2seq"])
def test_no_mutated_body_is_answered_with_a_5xx_and_good_ones_beside_it_are_answered(task, tiny_base: Path, tmp_path: Path):
    made = world(task, tiny_base, tmp_path)
    source = random.Random(task)
    seen: set[int] = set()

    async def ask(client: httpx.AsyncClient, path: str, body: Body) -> None:
        answer = await client.post(path, content=body.content, headers=body.headers)
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400, 404, 413, 422), (path, body, answer.text)
        if answer.status_code != 200:
            assert 0 < len(answer.json()["error"]) < 1000, (path, body)

    async def scenario() -> None:
        good = {"inputs": INPUTS[task]}
        async with asyncio.timeout(120), served(made.settings, made.database, made.storage) as (_, client):
            expected = (await client.post("", json=good)).json()
            for _ in range(ROUNDS // 4):
                bodies = [(path, mutate(make(source), path, source)) for path, make in valid(task).items() for _ in range(4)]
                *_, beside = await asyncio.gather(
                    *(ask(client, path, body) for path, body in bodies), client.post("", json=good)
                )
                assert (beside.status_code, len(beside.json())) == (200, len(expected))

    asyncio.run(scenario())
    made.registry.close()
    assert {200, 400, 413, 422} <= seen
