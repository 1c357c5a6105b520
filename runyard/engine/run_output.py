"""What Dagster runs have printed, as it is stored in the database: read, written and deleted.

It stands under Dagster's log keys, which begin with a run's id, in two streams.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from urllib.parse import quote, unquote

from runyard.engine.output_spool import Piece
from runyard.store import database
from runyard.store.queries import Connection, fetch_all, fetch_one

OUT, ERR = "out", "err"
LogKey = Sequence[str]

_CHUNK = 1_000
_PIECE = 4 * 1024 * 1024
_LAST_PLACE = 2**31 - 1


def text_of_key(key: LogKey) -> str:
    """A key as the database has it."""
    return "/".join(quote(part, safe="") for part in key)


def read(
    key: LogKey,
    out: int = 0,
    err: int = 0,
    *,
    streams: Sequence[str] = (OUT, ERR),
    most: int | None = None,
) -> Mapping[str, bytes]:
    """What was printed under a key: of these streams, from these places on; none of an empty one.

    Of each stream it is no more than `most` bytes.
    """
    places = {OUT: out, ERR: err}
    with database.connection() as connection:
        rows = fetch_all(
            connection,
            "run_output",
            key=text_of_key(key),
            streams=list(streams),
            places=[min(max(places[stream], 0), _LAST_PLACE) for stream in streams],
            most=most if most is None else min(max(most, 0), _LAST_PLACE),
        )
    contents: dict[str, list[bytes]] = {}
    for row in rows:
        contents.setdefault(row["stream"], []).append(row["content"])
    return {stream: b"".join(pieces) for stream, pieces in contents.items()}


def read_pieces(key: LogKey, stream: str) -> Iterator[bytes]:
    """All that a stream has under a key, in pieces of a bounded size."""
    place = 0
    while piece := read(key, place, place, streams=[stream], most=_PIECE).get(stream):
        yield piece
        place += len(piece)


def has_some(key: LogKey, stream: str) -> bool:
    """Whether a stream has something under a key."""
    with database.connection() as connection:
        row = fetch_one(connection, "run_output_exists", key=text_of_key(key), stream=stream)
    return row is not None and bool(row["has_some"])


def keys_below(prefix: LogKey, stream: str) -> Sequence[LogKey]:
    """The keys of one more part than a prefix under which a stream has something."""
    with database.connection() as connection:
        rows = fetch_all(connection, "run_output_keys", prefix=text_of_key(prefix), stream=stream)
    keys = [[unquote(part) for part in row["key"].split("/")] for row in rows]
    return [key for key in keys if len(key) == len(prefix) + 1]


def delete(key: LogKey) -> None:
    """Delete what was printed under a key."""
    with database.connection() as connection:
        fetch_all(connection, "delete_run_output", key=text_of_key(key), stream=None)


def delete_below(prefixes: Collection[LogKey]) -> None:
    """Delete what was printed under all keys that begin with one of these."""
    with database.connection() as connection:
        fetch_all(
            connection, "delete_output_below", prefixes=[text_of_key(each) for each in prefixes]
        )


def delete_before(before: datetime) -> int:
    """Delete some of what was printed before a time, the oldest first; return how many pieces."""
    with database.connection() as connection:
        return len(fetch_all(connection, "delete_old_output", before=before, limit=_CHUNK))


def add(key: str, pieces: Mapping[str, Piece]) -> None:
    """Store the next pieces of streams under a key, as the database has it."""
    with database.connection() as connection:
        _save(connection, key, pieces)


def replace(key: str, stream: str, piece: Piece) -> None:
    """Store a piece as all that a stream has under a key, as the database has it."""
    with database.transaction() as connection:
        fetch_all(connection, "delete_run_output", key=key, stream=stream)
        _save(connection, key, {stream: piece})


def _save(connection: Connection, key: str, pieces: Mapping[str, Piece]) -> None:
    fetch_all(
        connection,
        "save_run_output",
        key=key,
        streams=list(pieces),
        starts=[piece.start for piece in pieces.values()],
        contents=[piece.content for piece in pieces.values()],
    )
