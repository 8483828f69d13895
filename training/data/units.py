"""Which rows move together: those that share a text, or a declared group, directly or through others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence


def components(keys: Iterable[Sequence[str]]) -> list[str]:
    """Return the name of each row's component: the only key of all its rows, or else a hash of the smallest.

    Two rows are in one component if they have a key in common, or if other rows connect them, as (a, x) and (b,) are by (b, x).
    The smallest of several fingerprints is no fair draw, its hash is. Union-find (Tarjan 1975) with path halving.
    """
    rows = [tuple(row) for row in keys]
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for first, *others in rows:
        root(first)
        for other in others:
            one, two = sorted((root(first), root(other)))
            parent[two] = one
    keys_in = Counter(root(key) for key in list(parent))
    names = {key: key if count == 1 else hashlib.sha256(key.encode()).hexdigest() for key, count in keys_in.items()}
    return [names[root(row[0])] for row in rows]
