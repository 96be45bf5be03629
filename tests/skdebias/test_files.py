"""Files that are written whole or not at all."""

import os
import stat
import sys

import pytest

from skdebias._files import written_whole


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "head"
    path.write_bytes(b"old")
    with written_whole(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "head"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), written_whole(path) as temporary:
        temporary.write_text(None)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_may_be_written_by_another_file_put_in_its_place(tmp_path):
    path = tmp_path / "head"
    with written_whole(path) as temporary:
        temporary.unlink()
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="needs file modes")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_says_who_may_read(tmp_path, umask):
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "head") as temporary:
            temporary.write_bytes(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "head").stat().st_mode) == 0o666 & ~umask
