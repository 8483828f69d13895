"""The reference of ``baton.yaml`` in ``docs/configuration.md``: every key, from the pydantic models. Writes no file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from baton.config.file import ENVIRONMENT, OVERRIDABLE, BatonConfig, section_in

TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
"""JSON types as the reference calls them."""

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
"""Keywords of JSON Schema that bound a number."""


def reference() -> str:
    """Return the tables of ``docs/configuration.md``, as Markdown: one for each section of the file."""
    return "\n".join(_section("", BatonConfig))


def _section(path: str, section: type[BaseModel]) -> Iterator[str]:
    """Yield the lines of a section, and of those inside it. ``path``: its dotted key; empty for the whole file."""
    yield f"### {f'`{path}`' if path else 'The file'}\n\n{_sentence(section)}\n"
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    schema = section.model_json_schema()
    properties, named = schema["properties"], schema.get("$defs", {})
    inner: dict[str, type[BaseModel]] = {}
    for name, field in section.model_fields.items():
        key = f"{path}.{name}" if path else name
        nested = section_in(field.annotation)
        if nested is None:
            value, meaning = _allowed(properties[name], named), field.description or ""
        else:
            value, meaning = "a section", field.description or _sentence(nested)
            if properties[name].get("type") == "array":
                value, key = "a list of sections", f"{key}[]"
            elif field.default is None:
                value += " or null"
            meaning += f" See [`{key}`](#{_anchor(key)})."
            inner[key] = nested
        yield f"| `{name}` | {_cell(value)} | {_default(field)} | {_cell(meaning + _overrides(key))} |"
    yield ""
    for key, nested in inner.items():
        yield from _section(key, nested)


def _sentence(section: type[BaseModel]) -> str:
    return inspect.cleandoc(section.__doc__ or "").replace("\n", " ").replace("``", "`")


def _overrides(key: str) -> str:
    """Return what else than the file sets a key: a variable, or an argument of one run. `training` itself says so once."""
    variable = next((variable for variable, keys in ENVIRONMENT.items() if ".".join(keys) == key), None)
    if variable:
        return f" Environment: `{variable}`."
    inner = key.removeprefix("models[].")
    if inner in OVERRIDABLE or f"{inner}." in set(OVERRIDABLE) - {"training."}:
        return f" For one run: `baton train MODEL --set {inner}{'' if inner in OVERRIDABLE else '.FIELD'}=…`."
    return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "–" if isinstance(default, BaseModel) else f"`{json.dumps(default)}`"


def _allowed(schema: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """Return the values that a JSON Schema allows, in words. ``named``: the schemas that it may refer to."""
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    if alternatives := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(_allowed(one, named) for one in alternatives))
    if "$ref" in schema:
        return _referred(schema["$ref"].rpartition("/")[2], named)
    if schema["type"] == "array":
        return f"a list of {_allowed(schema['items'], named)}" if schema["items"] else "a list"
    if schema["type"] == "object":
        return f"a mapping from names to {_allowed(schema['additionalProperties'], named)}"
    bounds = " and ".join(f"{sign} {schema[keyword]:g}" for keyword, sign in BOUNDS.items() if keyword in schema)
    return f"{TYPES[schema['type']]} {bounds}".rstrip()


def _referred(name: str, named: Mapping[str, Any]) -> str:
    return _allowed(named[name], named) if "enum" in named[name] else f"a {name.lower()}"


def _anchor(key: str) -> str:
    """Return the anchor that GitHub gives the heading of a section."""
    return "".join(character for character in key.lower() if character.isalnum() or character in "_-")


def _cell(text: str) -> str:
    """Return text that stays in one cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
