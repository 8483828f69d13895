"""The shape of the code: no import circles, small rooms that say what they are, and a map in the README that is true."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("baton", "training", "services")
MAX_MODULES = 20
"""Maximum number of modules in one folder: more than a newcomer reads through to find one."""


def modules(*folders: str) -> dict[str, Path]:
    """Every module below ``folders`` by its dotted name; a package by its own."""
    found = {}
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules of ``known`` that a module imports, inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found & known.keys()


def circles(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Import circles, each as the modules along it: what is left when modules that import nothing are taken away in turn."""
    left = {name: set(targets) - {name} for name, targets in graph.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    while left:
        path = [next(iter(left))]
        while (following := next(iter(left[path[-1]] & left.keys()))) not in path:
            path.append(following)
        yield [*path[path.index(following) :], following]
        for name in path:
            left.pop(name)
        while free := [name for name, targets in left.items() if not targets & left.keys()]:
            for name in free:
                del left[name]


def test_a_circle_would_be_found():
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": set()})) == []
    [circle] = circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}})
    assert Counter(circle[:-1]) == Counter(["b", "c"])


def test_no_module_imports_one_that_imports_it_not_even_inside_a_function():
    known = modules(*PRODUCT)
    assert list(circles({name: imported(path, known) for name, path in known.items()})) == []


@pytest.mark.parametrize("folder", [*PRODUCT, "tests", "benchmarks"])
def test_no_folder_has_more_modules_than_a_newcomer_reads_through(folder):
    sizes = Counter(str(path.parent.relative_to(ROOT)) for path in modules(folder).values() if path.name != "__init__.py")
    assert {name: size for name, size in sizes.items() if size > MAX_MODULES} == {}


def test_every_room_says_what_it_is():
    packages = [path for path in modules(*PRODUCT).values() if path.name == "__init__.py"]
    silent = [str(path.relative_to(ROOT)) for path in packages if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


# --- the map in the README -----------------------------------------------------------------------------------------------


def tree() -> list[str]:
    """The paths that the README's tree names, folders with a slash at the end."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("## The tree", 1)[1].split("```")[1]
    paths, parent = [], ""
    for line in filter(str.strip, block.splitlines()):
        names = re.match(r" *((?:[\w.-]+/?(?: · )?)+)(?:  |$)", line)
        assert names is not None, f"the README's tree has a line without a name: {line!r}"
        if not line.startswith(" "):
            parent = "" if not names[1].endswith("/") else names[1]
            paths.append(names[1])
        else:
            paths += [parent + name for name in names[1].split(" · ")]
    return paths


def test_every_name_in_the_readmes_tree_exists():
    assert [name for name in tree() if not (ROOT / name).exists() or name.endswith("/") != (ROOT / name).is_dir()] == []


def test_every_module_is_named_in_the_readmes_tree_or_lies_in_a_room_that_is():
    named = set(tree())
    rooms = [name for name in named if name.endswith("/") and name.count("/") > 1]
    files = [str(path.relative_to(ROOT)) for path in modules(*PRODUCT).values()]
    lost = [
        name
        for name in files
        if not name.endswith("__init__.py") and name not in named and not any(name.startswith(room) for room in rooms)
    ]
    assert lost == []
