"""Which pieces of an output are stored: whole lines of its two halves, without secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.engine.output_spool import Spool

LIMIT = 200_000
LONG_SECRET = "-".join(map(str, range(700)))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty file of output."""
    with Spool(tmp_path / "output", LIMIT) as spool:
        yield spool


def printed(spool: Spool, text: bytes) -> None:
    with open(spool.descriptor, "ab", closefd=False) as file:
        file.write(text)


def stored(spool: Spool, *, ended: bool = False) -> bytes | None:
    """What is stored next."""
    piece = spool.next_piece(ended=ended)
    if piece is None:
        return None
    spool.advance(piece)
    return piece.content


def test_nothing_is_stored_of_nothing(spool: Spool) -> None:
    assert stored(spool, ended=True) is None


def test_a_line_is_stored_once(spool: Spool) -> None:
    printed(spool, b"one\n")
    assert stored(spool) == b"one\n"
    assert stored(spool) is None


def test_a_piece_begins_where_the_one_before_has_ended(spool: Spool) -> None:
    printed(spool, b"one\n")
    stored(spool)
    printed(spool, b"two\n")
    piece = spool.next_piece()
    assert piece is not None
    assert piece.start == len(b"one\n")


def test_a_line_is_stored_when_it_has_ended(spool: Spool) -> None:
    printed(spool, b"one\ntw")
    assert stored(spool) == b"one\n"
    assert stored(spool) is None
    printed(spool, b"o\n")
    assert stored(spool) == b"two\n"


def test_a_line_that_never_ends_is_stored_in_the_end(spool: Spool) -> None:
    printed(spool, b"a question? ")
    assert stored(spool) is None
    assert stored(spool, ended=True) == b"a question? "


def test_a_progress_bar_is_stored_while_it_grows(spool: Spool) -> None:
    printed(spool, b"\r 10 %\r 20 %")
    assert stored(spool) == b"\r 10 %\r"


@pytest.mark.parametrize("before", range(4))
def test_a_very_long_line_is_cut_between_two_characters(spool: Spool, before: int) -> None:
    text = b"x" * before + "🐢".encode() * 20_000
    printed(spool, text)
    piece = stored(spool)
    assert piece is not None
    assert piece.decode()
    assert piece + (stored(spool, ended=True) or b"") == text


def test_while_a_run_works_the_first_half_is_stored(spool: Spool) -> None:
    printed(spool, b"line\n" * LIMIT)
    assert stored(spool) == b"line\n" * (LIMIT // 2 // 5)
    assert stored(spool) is None


@pytest.mark.parametrize("looked", [True, False])
def test_the_middle_of_a_long_output_is_counted_and_left_out(spool: Spool, looked: bool) -> None:
    printed(spool, b"first\n" + b"line\n" * LIMIT + b"last\n")
    before = stored(spool) or b"" if looked else b""
    whole = before + (stored(spool, ended=True) or b"")
    head, _, rest = whole.partition(b"\n[")
    count, _, tail = rest.partition(b" bytes are left out here]\n")
    assert head.startswith(b"first\nline\n")
    assert tail.endswith(b"line\nlast\n")
    assert len(head) + int(count) + len(tail) == 6 + 5 * LIMIT + 5
    assert len(whole) < LIMIT + 100


def test_an_output_of_just_the_limit_is_stored_whole(spool: Spool) -> None:
    printed(spool, b"x" * LIMIT)
    assert stored(spool, ended=True) == b"x" * LIMIT


@pytest.mark.parametrize("text", [b"nul \0 here\n", b"latin \xe9\n", b"half \xf0\x9f\n"])
def test_bytes_are_stored_as_they_are(spool: Spool, text: bytes) -> None:
    printed(spool, text)
    assert stored(spool) == text


def test_a_secret_is_redacted(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "swordfish-7")
    printed(spool, b"\xff the key is swordfish-7\n")
    assert stored(spool) == b"\xff the key is [redacted]\n"


def test_a_secret_that_is_printed_bit_by_bit_is_redacted(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "swordfish-7")
    printed(spool, b"the key is sword")
    assert stored(spool) is None
    printed(spool, b"fish-7\n")
    assert stored(spool) == b"the key is [redacted]\n"


def whole(spool: Spool, *pieces: bytes) -> bytes:
    """What is stored when this is printed bit by bit, and somebody looks after each bit."""
    texts = []
    for piece in pieces:
        printed(spool, piece)
        texts.append(stored(spool))
    return b"".join(text or b"" for text in [*texts, stored(spool, ended=True)])


@pytest.mark.parametrize("before", [65_530, 70_000])
def test_a_secret_in_a_line_that_is_too_long_to_be_waited_for_is_redacted(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "swordfish-7")
    pieces = [b"x" * before + b"sword", b"fish-7" + b"y" * 100]
    assert whole(spool, *pieces) == b"x" * before + b"[redacted]" + b"y" * 100


@pytest.mark.parametrize("secret", ["swordfish-7", "sword and fish", LONG_SECRET])
@pytest.mark.parametrize("pieces", [1, 10])
def test_a_secret_in_a_line_beyond_the_limit_is_not_stored_in_parts(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, secret: str, pieces: int
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", secret)
    piece = (secret + " " * 99).encode() * (3 * LIMIT // len(secret) // pieces)
    head, _, rest = whole(spool, *[piece] * pieces).partition(b"\n[")
    _, _, tail = rest.partition(b"left out here]\n")
    assert (head + tail).replace(b"[redacted]", b"").strip() == b""
    assert b"[redacted]" in tail


@pytest.mark.parametrize("limit", [20_000, 70_000, 200_000])
def test_the_beginning_of_a_line_that_is_longer_than_the_limit_is_stored(
    tmp_path: Path, limit: int
) -> None:
    with Spool(tmp_path / "output", limit) as spool:
        head = whole(spool, b"x" * 3 * limit).partition(b"\n[")[0]
    assert head == b"x" * (limit // 2)


def test_of_a_line_in_the_smallest_limit_nothing_is_stored(tmp_path: Path) -> None:
    with Spool(tmp_path / "output", 1) as spool:
        assert whole(spool, b"xx") == b"\n[2 bytes are left out here]\n"


def test_a_file_is_locked_while_its_process_has_it(spool: Spool, tmp_path: Path) -> None:
    assert spool.is_ours
    with Spool(tmp_path / "output", LIMIT) as other:
        assert not other.is_ours


def test_a_file_is_not_locked_any_more_when_it_was_closed(tmp_path: Path) -> None:
    with Spool(tmp_path / "output", LIMIT):
        pass
    with Spool(tmp_path / "output", LIMIT) as other:
        assert other.is_ours
