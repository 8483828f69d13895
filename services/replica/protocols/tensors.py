"""Tensors of the Open Inference Protocol: texts out of JSON or binary data, and answers into either.

Binary data follow the JSON part of a body, tensor after tensor in the order of the JSON part. An element of a BYTES tensor is
its length (4 bytes, little-endian) and its bytes; FP32 are 4 bytes each, little-endian. Source: «Binary tensor data extension»,
github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.

Knows neither tasks nor requests.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baton.errors import InvalidInput, MalformedRequest
from baton.validation import short_repr

TENSOR_KEYS = ("name", "shape", "datatype", "parameters", "data")
TENSOR_PARAMETERS = ("binary_data_size", "content_type")
"""Parameters of an input. ``content_type`` is what MLServer's clients say of the data, which are texts here anyway."""
LENGTH_BYTES = 4
"""Bytes of the length before each element of a binary BYTES tensor."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of an answer."""

    name: str
    shape: Sequence[int]
    values: Sequence[str] | Sequence[float]
    """The elements, row by row."""
    binary: bool
    """Whether it is sent as binary data."""

    @property
    def datatype(self) -> str:
        """``BYTES`` for texts, else ``FP32``."""
        return "FP32" if self.values and isinstance(self.values[0], float) else "BYTES"

    def binary_data(self) -> bytes:
        """Return the elements as binary data."""
        if self.datatype == "FP32":
            return struct.pack(f"<{len(self.values)}f", *self.values)
        encoded = [str(value).encode() for value in self.values]
        return b"".join(part for text in encoded for part in (len(text).to_bytes(LENGTH_BYTES, "little"), text))


def read_inputs(tensors: object, binary: bytes, *, names: Sequence[str], most: int) -> dict[str, list[Any]]:
    """Return the elements of each input tensor by its name; all have the same number of them.

    Args:
        tensors: value of the key ``inputs``.
        binary: what follows the JSON part of the body.
        names: allowed names.
        most: maximum number of elements in a tensor.

    Raises:
        InvalidInput: a tensor that is not allowed. The message names it, the value and what is allowed.
        MalformedRequest: the lengths of the binary data do not add up.
    """
    if not isinstance(tensors, list) or not tensors:
        raise InvalidInput(f"inputs: a list of tensors is expected, not {short_repr(tensors)}; allowed: {', '.join(names)}")
    columns: dict[str, list[Any]] = {}
    begin = 0
    for position, tensor in enumerate(tensors):
        where = f"inputs[{position}]"
        check_keys(tensor, TENSOR_KEYS, where)
        name = tensor.get("name")
        if name not in names or name in columns:
            what = "is there twice" if name in names else "is no input of this model"
            raise InvalidInput(f"{where}.name: {short_repr(name)} {what}; allowed: {', '.join(names)}")
        if tensor.get("datatype") != "BYTES":
            raise InvalidInput(f"{where}.datatype: {short_repr(tensor.get('datatype'))} is not allowed; allowed: BYTES")
        count = _count(tensor.get("shape"), f"{where}.shape", most)
        size = _binary_size(tensor, where)
        if size is None:
            columns[name] = _from_json(tensor.get("data"), count, f"{where}.data")
        else:
            if begin + size > len(binary):
                raise MalformedRequest(
                    f"{where}.parameters.binary_data_size: {size} bytes, but only {len(binary) - begin} are left of the body"
                )
            columns[name] = _from_binary(binary[begin : begin + size], count, where)
            begin += size
    if begin != len(binary):
        raise MalformedRequest(
            f"{len(binary)} bytes follow the JSON part of the body, but binary_data_size of all inputs together is {begin}"
        )
    if len({len(column) for column in columns.values()}) > 1:
        shapes = ", ".join(f"{name}: {len(column)}" for name, column in columns.items())
        raise InvalidInput(f"inputs: all tensors must have the same number of elements, these have {shapes}")
    return columns


def check_keys(value: Any, keys: Sequence[str], where: str) -> None:
    """Raise ``InvalidInput`` unless ``value`` is a JSON object without other keys than these."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: a JSON object is expected, not {short_repr(value)}")
    unknown = [key for key in value if key not in keys]
    if unknown:
        raise InvalidInput(f"{where}: unknown key {short_repr(unknown[0])}; allowed: {', '.join(keys)}")


def _count(shape: object, where: str, most: int) -> int:
    """Return the number of elements of a shape [n] or [n, 1]."""
    fits = isinstance(shape, list) and (len(shape) == 1 or shape[1:] == [1]) and type(shape[0]) is int and 1 <= shape[0] <= most
    if not fits:
        raise InvalidInput(f"{where}: {short_repr(shape)} is not allowed; allowed: [n] or [n, 1], with n from 1 to {most}")
    assert isinstance(shape, list)
    return int(shape[0])


def _binary_size(tensor: dict[str, Any], where: str) -> int | None:
    """Return the number of bytes of a tensor that is sent as binary data, None of one whose elements are JSON."""
    parameters = tensor.get("parameters")
    if parameters is None:
        return None
    check_keys(parameters, TENSOR_PARAMETERS, f"{where}.parameters")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidInput(f"{where}.parameters.binary_data_size: {short_repr(size)} is not a number of bytes")
    if "data" in tensor:
        raise InvalidInput(f"{where}: has both data and binary_data_size; send one of them")
    return size


def _from_json(data: object, count: int, where: str) -> list[Any]:
    """Return the elements of ``data``: a list, or one list for each row."""
    if not isinstance(data, list):
        raise InvalidInput(f"{where}: a list of {count} texts is expected, not {short_repr(data)}")
    flat = [item for row in data for item in (row if isinstance(row, list) else [row])]
    if len(flat) != count:
        raise InvalidInput(f"{where}: has {len(flat)} elements, but shape says {count}")
    return flat


def _from_binary(data: bytes, count: int, where: str) -> list[str]:
    """Return the texts of a binary BYTES tensor. Every length is checked before it is used."""
    texts: list[str] = []
    begin = 0
    while begin < len(data) and len(texts) < count:
        length = int.from_bytes(data[begin : begin + LENGTH_BYTES], "little")
        begin += LENGTH_BYTES
        if begin + length > len(data):
            left = max(0, len(data) - begin)
            raise MalformedRequest(f"{where}: element {len(texts)} is announced with {length} bytes, but only {left} are left")
        try:
            texts.append(data[begin : begin + length].decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{where}: element {len(texts)} is not UTF-8: {error.reason} at byte {error.start}") from None
        begin += length
    if len(texts) != count or begin != len(data):
        more = f", and {len(data) - begin} bytes more" if begin < len(data) else ""
        raise MalformedRequest(f"{where}: its binary data have {len(texts)} elements{more}, but shape says {count}")
    return texts
