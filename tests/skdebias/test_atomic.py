"""Files that are written whole or not at all."""

import os
import stat
import subprocess
import sys

import pytest

from skdebias import _atomic
from skdebias._atomic import (
    TEMPORARY,
    atomic_write,
    is_dead,
    new_owner,
    remove_dead_partials,
)

posix = pytest.mark.skipif(
    os.name != "posix", reason="asks for processes as POSIX does"
)


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "head"
    path.write_bytes(b"old")
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "head"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(path) as temporary:
        temporary.write_text(None)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_may_be_written_by_another_file_put_in_its_place(tmp_path):
    path = tmp_path / "head"
    with atomic_write(path) as temporary:
        temporary.unlink()
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="needs file modes")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_says_who_may_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "head") as temporary:
            temporary.write_bytes(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "head").stat().st_mode) == 0o666 & ~umask


def _owner_of_another_process():
    code = "from skdebias._atomic import new_owner; print(new_owner())"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


@posix
def test_only_what_dead_processes_left_is_removed(tmp_path):
    dead = tmp_path / f"{TEMPORARY}{_owner_of_another_process()}"
    mine = tmp_path / f"{TEMPORARY}{new_owner()}"
    elsewhere = tmp_path / f"{TEMPORARY}{'0' * 12}-1-{'0' * 16}"
    unknown = tmp_path / f"{TEMPORARY}0123456789abcdef"
    for path in (dead, mine, elsewhere, unknown):
        path.touch()
    now = mine.stat().st_mtime
    remove_dead_partials(tmp_path, now)
    assert set(tmp_path.iterdir()) == {mine, elsewhere, unknown}
    # A clock that is wrong by hours cannot do harm, and after a day it is enough.
    remove_dead_partials(tmp_path, now + 3600)
    assert set(tmp_path.iterdir()) == {mine, elsewhere, unknown}
    remove_dead_partials(tmp_path, now + 2 * 24 * 3600)
    assert not list(tmp_path.iterdir())


@posix
def test_an_owner_is_dead_where_its_number_means_that_process(monkeypatch):
    ended = _owner_of_another_process()
    assert is_dead(ended)
    assert not is_dead(new_owner())
    assert not is_dead("no owner")
    monkeypatch.setattr(_atomic, "_machine", lambda: "f" * 12)
    assert not is_dead(ended)


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with atomic_write(path) as first:
        first.write_text("first")
        with atomic_write(path) as second:
            second.write_text("second")
        remove_dead_partials(tmp_path, path.stat().st_mtime)
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
