"""Everything that the manual shows can be typed: commands, settings, HTTP calls, Python, names of files and of code.

A block that nobody can check has a comment right above it, ``<!-- unchecked: why -->``. What is shown by the pages marked
``<!-- run -->`` is run on a real service (`tests/cluster/test_quickstart.py`).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
import typer
import typer.main
import yaml
from pydantic import BaseModel

from baton.config.file import BatonConfig, section_in, validate
from baton.config.model_settings import ModelSettings
from baton.tasks import TASKS
from services.cli.app import app
from services.console.app import Console
from services.control.api.app import build_api
from services.replica.endpoints import Endpoints
from tests.control.test_api import nothing
from tests.docs.markdown import BLOCKS, MANUAL, ROOT, Block, name_of, spans
from tests.support.local_control import configured, control_of

PLACEHOLDER = re.compile(r"[A-Z]+|.*…")
"""What stands for a value of the reader's."""

READ = [*MANUAL, ROOT / "CONTRIBUTING.md"]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def shown(*languages: str) -> pytest.MarkDecorator:
    """Each block in one of the languages, by its page and line."""
    return pytest.mark.parametrize("block", of(*languages), ids=str)


# --- what cannot be checked ----------------------------------------------------------------------------------------------

KNOWN = {"", "console", "bash", "python", "yaml", "json", "sql"}
"""Languages of blocks. Those without one are pictures and what a program prints."""

UNCHECKED = 12
"""How many blocks nobody checks. Whoever makes it larger says why above the block."""


def test_blocks_that_nobody_can_check_say_why_and_are_few():
    assert {block.language for block in BLOCKS} <= KNOWN
    assert [str(block) for block in BLOCKS if block.note.startswith("unchecked") and len(block.unchecked) < 10] == []
    assert [str(block) for block in of("sql") if not block.unchecked] == []
    assert Counter(bool(block.unchecked) for block in BLOCKS)[True] == UNCHECKED


# --- the baton command ---------------------------------------------------------------------------------------------------


def invocations(command: str) -> Iterator[list[str]]:
    """The arguments of each `baton` in a line for a shell: also behind a pipe, in ``$(…)``, and in a container."""
    for match in re.finditer(r"(?:^|[|;&(]\s*| -- | baton |in-baton |\w+=\S* )baton(?=\s|$)", command):
        lexer = shlex.shlex(command[match.end() :], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        arguments = []
        with suppress(ValueError):  # the quotation that began before `$(`
            for token in lexer:
                if set(token) <= set("();<>|&"):
                    break
                arguments.append(token)
        yield arguments


BATON: Any = typer.main.get_command(app)


def check(arguments: list[str], *, whole: bool) -> None:
    """Raise an error unless `baton` takes the arguments. ``whole``: nothing that it needs may be missing."""
    command, name = BATON, "baton"
    while rest := check_one(command, name, arguments, whole=whole):
        if not whole and PLACEHOLDER.fullmatch(rest[0]):
            return
        if rest[0] not in getattr(command, "commands", {}):
            raise ValueError(f"{name}: does not take {rest[0]!r}")
        command, name, arguments = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]


def check_one(command: Any, name: str, arguments: list[str], *, whole: bool) -> list[str]:
    """Return the arguments that a command leaves to its subcommands. Raise an error unless it takes all others."""
    context = typer.Context(command, info_name=name)
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    for parameter in command.params:
        given = values.get(parameter.name)
        if whole and parameter.required and not given:
            raise ValueError(f"{name}: {parameter.name} is missing")
        several = given if isinstance(given, list | tuple) else [given]
        if all(it is None or (isinstance(it, str) and PLACEHOLDER.fullmatch(it)) for it in several):
            continue
        if not re.search("bool|path|file", parameter.display_type(context), re.IGNORECASE):
            parameter.process_value(context, given)
    if whole and hasattr(command, "commands") and not rest and not any(values.values()):
        raise ValueError(f"{name}: needs a command")
    return rest


SHELL = of("console", "bash")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_baton_command_of_a_block_can_be_typed(block):
    assert block.commands, "a block of a shell has no command: `$ ` begins one"
    for command in block.commands:
        for arguments in invocations(command):
            check(arguments, whole=True)


@pytest.mark.parametrize("path", READ, ids=name_of)
def test_every_baton_command_in_the_prose_exists_with_its_options(path):
    for span in spans(path):
        for arguments in invocations(span):
            check([it for it in arguments if not it.startswith("[")], whole=False)


@pytest.mark.parametrize(
    "command",
    [
        "baton trian m",
        "baton train",
        "baton train m --wiat",
        "baton promote m 1 2",
        "baton runs m --limit 501",
        "baton keys create x --scope everything",
        "x | baton nothing",
        'a "$(kubectl exec pod -- baton keys craete x)"',
        "in-baton baton nothing",
        "baton config",
    ],
)
def test_a_wrong_command_would_be_found(command):
    found = list(invocations(command))
    assert len(found) == 1
    with pytest.raises((Exception, SystemExit)):
        check(found[0], whole=True)


# --- other programs ------------------------------------------------------------------------------------------------------


def verbs(command: str) -> list[str]:
    """The programs of a command that we can look at; others stand there as ``?``."""
    if any(True for _ in invocations(command)):
        return ["baton"]
    words = [it for it in shlex.split(command, comments=True) if "=" not in it or it.startswith("-")]
    if not words or words[0] == ".":
        return []
    name = words[0].removeprefix(".venv/bin/")
    return [name] if name in ("make", "curl", "python", "cat", "cd", "cp", "echo", "export", "mkdir") else ["?"]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_with_programs_of_others_says_why_nobody_checks_it(block):
    foreign = [command for command in block.commands if "?" in verbs(command)]
    assert bool(foreign) <= bool(block.unchecked), foreign
    assert not (block.unchecked and not foreign), "every command of this block is checked"


def test_every_make_target_exists():
    targets = set(
        re.findall(r"^([\w.-]+(?:/[\w.-]+)?):", (ROOT / "Makefile").read_text().replace("$(STAMP)", ".venv/.installed"), re.M)
    )
    used = {
        name
        for text in (*(command for block in SHELL for command in block.commands), *(it for path in READ for it in spans(path)))
        for name in re.findall(r"(?:^|[;&] )make ([a-z./-]+)", text)
    }
    assert {"demo", "test", "docs"} <= used
    assert used - targets == set()


def code() -> list[tuple[str, str]]:
    """Every piece of code of the manual, with its place."""
    found = [(str(block), command) for block in SHELL for command in block.commands]
    return found + [(name_of(path), span) for path in READ for span in spans(path)]


def test_every_module_that_is_run_exists():
    named = {(place, name) for place, text in code() for name in re.findall(r"python -m ([\w.]+)", text)}
    assert len(named) >= 5
    assert [it for it in sorted(named) if importlib.util.find_spec(it[1]) is None] == []


def test_every_file_of_the_repository_exists():
    made = ("deploy/.env", "deploy/secrets/metrics-key")  # by the commands beside them
    pattern = re.compile(
        r"(?<![\w/.:$-])(?!baton/client:)(?:\.ci|baton|training|services|tests|deploy|docs|benchmarks)/[\w./*-]*[\w*]"
    )
    named = {(place, found) for place, text in code() for found in pattern.findall(text) if found not in made}
    assert len(named) > 50
    assert [it for it in sorted(named) if not any(ROOT.glob(it[1]))] == []


@cache
def sources() -> str:
    found = [
        path for folder in ("baton", "services", "training", "deploy") for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    return "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in (*found, ROOT / "Dockerfile"))


def test_every_variable_of_ours_is_read_somewhere():
    named = {(place, name) for place, text in code() for name in re.findall(r"\bBATON_[A-Z_]*[A-Z]\b", text)}
    assert len(named) > 10
    assert [it for it in sorted(named) if it[1] not in sources()] == []


# --- names of code and of settings ---------------------------------------------------------------------------------------


def has_key(path: list[str], section: type[BaseModel]) -> bool:
    """Whether a section has a dotted key."""
    field = section.model_fields.get(path[0])
    if field is None:
        return False
    inner = section_in(field.annotation)
    return len(path) == 1 or (
        has_key(path[1:], inner) if inner else field.annotation is not None and path[0] in ("fields", "space")
    )


def is_code(path: list[str]) -> bool:
    """Whether a dotted name is a module or something in one, as far as its last parts are attributes."""
    for end in range(len(path), 0, -1):
        with suppress(ImportError):
            found: Any = importlib.import_module(".".join(path[:end]))
            for place, name in enumerate(path[end:]):
                fields = {**getattr(found, "__annotations__", {}), **getattr(found, "__dataclass_fields__", {})}
                if not hasattr(found, name):
                    return name in fields and place == len(path[end:]) - 1
                found = getattr(found, name)
            return True
    return False


SECTIONS = {
    name
    for settings in (BatonConfig, ModelSettings)
    for name, field in settings.model_fields.items()
    if section_in(field.annotation)
}
GONE = {"data.feedback_holdout"}
"""Keys of earlier versions that upgrade notes name."""


@pytest.mark.parametrize("path", READ, ids=name_of)
def test_every_setting_and_every_name_of_code_in_the_prose_exists(path):
    for span in spans(path):
        match = re.fullmatch(r"([a-z_]+(?:\.[A-Za-z_]+)+)(?:: .*)?", span)
        if (
            not match
            or match[1] in GONE
            or match[1].endswith((".py", ".md", ".yaml", ".yml", ".html", ".json", ".jsonl", ".csv", ".log", ".db"))
        ):
            continue
        names = match[1].split(".")
        if names[0] in SECTIONS or names[0] in ("baton", "training", "services"):
            known = any(has_key(names, settings) for settings in (BatonConfig, ModelSettings))
            assert known or is_code(names), f"{match[1]} is neither a setting nor a name of code"


def default_of(path: list[str], section: type[BaseModel]) -> Any:
    field = section.model_fields[path[0]]
    inner = section_in(field.annotation)
    return default_of(path[1:], inner) if inner else field.get_default(call_default_factory=True)


def test_defaults_that_the_prose_tells_are_those_of_the_settings():
    told = []
    for path in READ:
        text = path.read_text(encoding="utf-8")
        told += re.findall(r"`([a-z_]+\.[a-z_]+)` \((\d[\d.,]*)(?: s)?\)", text)
        told += re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| ([\d.]+|none) \|", text, flags=re.MULTILINE)
    assert len(told) > 20
    for key, value in told:
        names = key.split(".")
        default = default_of(names, BatonConfig if names[0] in ("http", "auth", "logging") else ModelSettings)
        assert (default or 0) == (0 if value == "none" else float(value.rstrip(".").replace(",", ""))), (
            f"{key} ({value}): {default}"
        )


# --- yaml, json, python --------------------------------------------------------------------------------------------------


def completed(given: dict[str, Any]) -> dict[str, Any]:
    """A piece of ``baton.yaml`` as a whole file: with what every file must have."""
    service = {key: value for key, value in given.items() if key in BatonConfig.model_fields}
    model = {key: value for key, value in given.items() if key in ModelSettings.model_fields}
    assert service.keys() | model.keys() == given.keys(), f"unknown keys: {given.keys() - service.keys() - model.keys()}"
    models = service.get("models") or [{**model, "name": model.get("name", "m")}]
    service["models"] = [{"task": "classification", "data": {"train": "train.jsonl"}, **it} for it in models]
    return service


@shown("yaml")
def test_every_piece_of_configuration_is_valid(block):
    validate(BatonConfig, completed(yaml.safe_load(block.text)), source=str(block))


@shown("json")
def test_every_piece_of_json_can_be_read(block):
    json.loads(block.text)


@shown("python")
def test_every_piece_of_python_compiles_and_what_it_imports_exists(block):
    tree = ast.parse(block.text)
    compile(tree, str(block), "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_task_that_a_table_names_exists():
    [table] = re.findall(
        r"^\| task \|.*?\n\n", (ROOT / "docs/tasks.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == [name for name in TASKS if name != "rating"]


# --- http ----------------------------------------------------------------------------------------------------------------

OTHERS = {("GET", "/-/healthz"), ("GET", "/-/routes"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/metrics")}
"""Paths that the API's own document does not have: those of Ray Serve, and what describes or measures the API."""

METHODS = "GET|POST|DELETE|HEAD|PUT|PATCH"


@pytest.fixture(scope="session")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Methods and path templates of both planes and of the console."""
    control = control_of(configured(tmp_path_factory.mktemp("routes"), "m"))
    api = build_api(control, nothing)
    described = [(method.upper(), path) for path, item in api.openapi()["paths"].items() for method in item]
    console = Console(api, control=control, metrics=None)  # type: ignore[arg-type]  # nobody asks it for metrics
    pages = [(method, re.sub(r":\w+}", "}", route.path)) for route in console._answer.routes for method in route.methods]
    control.registry.close()
    replicas = [
        (endpoint.method, f"{root}{path.replace('/v2/models/{model}', f'/v2/models/{{model}}{version}')}")
        for path, endpoint in Endpoints("{model}")._paths.items()
        for root in (("/models/{model}", "") if "/models/" in path else ("/models/{model}",))
        for version in ("", "/versions/{version}")
    ]
    return [*described, *pages, *replicas, *OTHERS]


def matches(template: str, path: str) -> bool:
    """Whether a path is one of a template, or begins like it and ends with ``…``. Names in it may be placeholders."""
    wanted, given = template.strip("/").split("/"), path.strip("/").split("/")
    if given[-1].endswith("…"):
        given = [*given[:-1], given[-1].removesuffix("…")] if given[-1] != "…" else given[:-1]
        wanted = [*wanted[: len(given) - 1], *(it.partition(":")[0] for it in wanted[len(given) - 1 : len(given)])]
    return len(wanted) == len(given) and all(
        other == "…" or re.fullmatch(re.sub(r"\\{.*?\\}", "[^/:]+", re.escape(one)), other)
        for one, other in zip(wanted, given, strict=True)
    )


def calls(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The HTTP calls in pieces of code: with a method, of curl, or a path alone (then the method is empty)."""
    for text in texts:
        if match := re.fullmatch(rf"((?:{METHODS})(?:[/, ]+(?:{METHODS}))*) (/\S*|…/\S+)", text):
            for method in re.findall(METHODS, match[1]):
                yield method, match[2]
        elif text.startswith("curl ") or " curl " in text:
            for found in re.findall(r"(?:localhost:8000|127\.0\.0\.1:8000|URL)(/[^\s'\"]*)?", text):
                method = re.search(r"-X (\w+)", text)
                yield method[1] if method else "POST" if re.search(r" (-d|--data-binary) ", text) else "GET", found or "/"
        elif re.fullmatch(r"/(?:api|models|v1|v2|console|healthz|readyz|metrics|docs|openapi\.json|-)(?:[/:].*)?", text):
            yield "", text


def test_every_http_call_is_one_of_the_service(routes):
    pieces = [(str(block), command) for block in SHELL for command in block.commands]
    pieces += [(name_of(path), span) for path in READ for span in spans(path)]
    found = [(place, *call) for place, text in pieces for call in calls([text])]
    assert len(found) > 60
    lost = []
    for place, method, path in found:
        plain = path.partition("?")[0]
        if plain in ("/api", "/console"):  # all that is below
            plain += "/…"
        if plain.startswith("…"):
            known = any(method == one and template.endswith(plain.removeprefix("…")) for one, template in routes)
        else:
            known = any(method in ("", one) and matches(template, plain) for one, template in routes)
        if not known:
            lost.append(f"{place}: {method} {path}")
    assert lost == []


def test_a_wrong_call_would_be_found(routes):
    assert list(calls(["GET/POST /api/x", "curl -X DELETE localhost:8000/a/b", "/metrics", "other"])) == [
        ("GET", "/api/x"),
        ("POST", "/api/x"),
        ("DELETE", "/a/b"),
        ("", "/metrics"),
    ]
    assert not any(matches(template, "/api/models/M/nothing") for _, template in routes)
    assert any(matches(template, "/api/models/M/versions/N") for _, template in routes)
