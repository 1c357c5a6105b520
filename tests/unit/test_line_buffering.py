"""Lines that are written as they end, while a stream is to be read by others."""

import io
from pathlib import Path

import pytest

from runyard.text.line_buffering import line_buffered


def test_a_line_is_written_as_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with path.open("w") as stream, line_buffered(stream):
        stream.write("a line\n")
        assert path.read_text() == "a line\n"


def test_what_is_no_whole_line_is_written_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with path.open("w") as stream:
        with line_buffered(stream):
            stream.write("no line")
        assert path.read_text() == "no line"


@pytest.mark.parametrize("buffering", [-1, 1])
def test_a_stream_is_buffered_as_before_in_the_end(tmp_path: Path, buffering: int) -> None:
    with (tmp_path / "output").open("w", buffering=buffering) as stream:
        before = stream.line_buffering
        with line_buffered(stream):
            pass
        assert stream.line_buffering == before


def test_a_stream_may_be_closed_meanwhile(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as stream, line_buffered(stream):
        stream.close()


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_what_is_no_file_is_left_alone(stream: io.StringIO | None) -> None:
    with line_buffered(stream):
        pass
