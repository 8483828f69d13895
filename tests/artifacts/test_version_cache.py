"""The versions that a node has downloaded: nobody else can exchange them, and they do not fill the disk."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from baton.artifacts.version_cache import PARTIAL, UNUSED_SECONDS, VersionCache, claimed, name_of
from baton.errors import StorageError

SHA = "0123456789abcdef" * 4


@pytest.fixture
def cache(tmp_path: Path) -> VersionCache:
    return VersionCache(tmp_path / "baton" / "versions")


def put(cache: VersionCache, name: str, *, unused: bool = True) -> Path:
    entry = cache.open() / name
    entry.mkdir()
    (entry / "model.safetensors").write_bytes(b"weights")
    if unused:
        past = time.time() - UNUSED_SECONDS - 60
        os.utime(entry, (past, past))
    return entry


def test_the_directory_is_the_users_own(cache):
    for directory in (cache.open(), cache.open().parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert f"baton-{os.getuid()}" in str(VersionCache().directory)


def test_a_directory_that_others_may_write_to_is_refused(cache):
    """Whoever made it first could exchange files between their verification and their use (review M9)."""
    cache.open().chmod(0o777)
    with pytest.raises(StorageError, match="belongs to another user, or others may write to it"):
        cache.open()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(cache):
    os.chown(cache.open().parent, 12345, 12345)
    with pytest.raises(StorageError, match="belongs to another user"):
        cache.open()


def test_a_link_in_its_place_is_refused(cache, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    cache.directory.parent.mkdir(mode=0o700)
    cache.directory.symlink_to(elsewhere)
    with pytest.raises(StorageError):
        cache.open()


def test_versions_that_nobody_needs_are_removed_and_all_others_stay(cache):
    """After six promotions there used to be six copies, and partial downloads for ever (review H10)."""
    for number in range(1, 7):
        put(cache, name_of("intents", number, SHA))
    put(cache, name_of("intents-2", 1, SHA))
    put(cache, f"{PARTIAL}abc")
    put(cache, f"{PARTIAL}new", unused=False)
    assert cache.tidy("intents", {5, 6}) == [*(name_of("intents", number, SHA) for number in (1, 2, 3, 4)), f"{PARTIAL}abc"]
    left = sorted(entry.name for entry in cache.directory.iterdir())
    kept = [name_of("intents-2", 1, SHA), *(name_of("intents", number, SHA) for number in (5, 6))]
    assert left == [*kept, f"{PARTIAL}new"]


def test_what_was_used_a_short_time_ago_stays(cache):
    put(cache, name_of("m", 1, SHA), unused=False)
    assert cache.tidy("m", set()) == []


def test_a_cache_that_was_never_used_is_tidy(cache):
    assert cache.tidy("m", {1}) == []


def test_a_download_that_goes_on_for_long_stays(cache):
    """The directory's time stands still while one large file is written."""
    with claimed(cache.open() / f"{PARTIAL}m-1-{SHA[:16]}") as partial:
        past = time.time() - UNUSED_SECONDS - 60
        os.utime(partial, (past, past))
        assert cache.tidy("m", keep=[]) == []
        assert partial.is_dir()
    left = put(cache, f"{PARTIAL}m-1-{SHA[:16]}")
    assert cache.tidy("m", keep=[]) == [left.name]
