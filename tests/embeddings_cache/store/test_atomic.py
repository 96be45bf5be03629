"""Files are written whole or not at all, and leave nothing wherever they are ended."""

import pytest

from embeddings_cache.store import _io
from embeddings_cache.store._atomic import write_atomically, write_durably

STEPS = ("open_new", "write_all", "close", "rename")


def durably(folder):
    write_durably(folder, folder / "target", b"content")


def atomically(folder):
    write_atomically(folder / "target", b"content")


@pytest.mark.parametrize("write", [durably, atomically])
@pytest.mark.parametrize("step", [*STEPS, None])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_ends_the_writing_leaves_nothing_aside(
    write, step, error, tmp_path, monkeypatch
):
    """Also a signal that comes when a step is done and has not returned."""
    if step is not None:
        done = getattr(_io, step)

        def interrupted(*arguments):
            done(*arguments)
            raise error

        monkeypatch.setattr(_io, step, interrupted)
        with pytest.raises(error):
            write(tmp_path)
    else:
        write(tmp_path)
    named = {"target"} if step in ("rename", None) else set()
    assert {path.name for path in tmp_path.iterdir()} == named
