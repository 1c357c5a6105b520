"""Which files are watched while `runyard up` runs, and what changes in them.

They are those of the code that is loaded, whatever its name: each package and module in the
project's folder that the code server has imported, with the SQL and the templates in it, and the
folders `templates` and `sql` beside them. The code server notes them in the data folder whenever it
has loaded the code; `runyard up` itself never loads it.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

from runyard.settings import settings
from runyard.store.data_folder import data_folder

_SUFFIXES = {".py", ".sql", ".html", ".txt", ".j2", ".jinja", ".jinja2"}
_BESIDE = ("templates", "sql")
_NOT_CODE = {"tests", "node_modules", "site-packages", "__pycache__"}
_MOST_ROOTS = 100
_DEBOUNCE_MS = 400
_LOOK_SECONDS = 1.0


def note_loaded_code(since: float, error: BaseException | None = None) -> None:
    """Note which packages and modules of the project this process has imported.

    `since` is when it began to, in seconds since the epoch: what was written later may not have
    been loaded. Code that did not load with an `error` leaves modules out, so what was noted before
    stays then, and the files of the error are noted too.
    """
    modules = [module for name, module in list(sys.modules.items()) if "." not in name]
    roots = {root for module in modules for root in _roots_of(module)}
    if error is not None:
        roots |= set(_noted()) | {root for file in _files_of(error) if (root := _root_of(file))}
    data_folder()
    draft = _notes().with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(sorted(map(str, roots))[:_MOST_ROOTS]), encoding="utf-8")
    os.utime(draft, (since, since))
    draft.replace(_notes())


def watched_roots() -> list[Path]:
    """Return the packages and modules to watch: those noted, and that of the code location."""
    home = settings().home.resolve()
    code = settings().code.partition(".")[0]
    named = [base / name for base in (home, home / "src") for name in (code, f"{code}.py")]
    beside = [home / name for name in _BESIDE]
    return [path for path in dict.fromkeys([*named, *beside, *_noted()]) if path.exists()]


def code_changes(stopped: threading.Event) -> Iterator[list[Path]]:
    """Yield the files that have changed, once after each burst of changes, until stopped.

    After each second without a change it yields an empty list, so that its caller can do something
    else. Raises `OSError` or `RuntimeError` when the files cannot be watched.
    """
    changes: queue.SimpleQueue[list[Path] | Exception] = queue.SimpleQueue()
    watched: set[tuple[Path, int]] = set()
    early = _EarlyChanges()
    ended = threading.Event()
    try:
        while not stopped.is_set():
            for root in watched_roots():
                identity = (root, _inode(root))
                if identity not in watched:
                    watched.add(identity)
                    early.begin(root)
                    watch = partial(_watch, root, changes, ended)
                    threading.Thread(target=watch, daemon=True).start()
            try:
                change = changes.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                change = []
            if isinstance(change, Exception):
                raise change
            yield early.added_to(change)
    finally:
        ended.set()


class _EarlyChanges:
    """Finds what has changed since the code was loaded, but before its files were watched.

    A watch takes a moment to begin, and does not tell when it has.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[Path, float]] = []
        self._told: set[tuple[Path, int]] = set()

    def begin(self, root: Path) -> None:
        """Note that a watch begins."""
        self._begun.append((root, time.monotonic()))

    def added_to(self, changes: list[Path]) -> list[Path]:
        """Return changes with those that came too early for the watches that have begun by now."""
        if not self._begun:
            return changes
        self._told.update(_state(path) for path in changes)
        ready = [root for root, at in self._begun if time.monotonic() - at >= _LOOK_SECONDS]
        self._begun = [each for each in self._begun if each[0] not in ready]
        found = {path for root in ready for path in _written_since_loading(root)}
        return [*changes, *sorted(path for path in found if _state(path) not in self._told)]


def _written_since_loading(root: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        since, now = _notes().stat().st_mtime, time.time()
        for path in [root] if root.is_file() else root.rglob("*"):
            # A time in the future is that of another clock.
            if _is_code(path, root) and since < path.stat().st_mtime <= now:
                yield path


def _state(path: Path) -> tuple[Path, int]:
    with suppress(OSError):
        return path, path.stat().st_mtime_ns
    return path, 0


def _inode(root: Path) -> int:
    """What tells a folder from another one that has replaced it, and is to be watched anew."""
    with suppress(FileNotFoundError):
        return root.stat().st_ino if root.is_dir() else 0
    return 0


def _watch(
    root: Path, changes: "queue.SimpleQueue[list[Path] | Exception]", ended: threading.Event
) -> None:
    """Put what changes in a folder or a file into the queue, and the error that ends watching."""
    from watchfiles import watch

    is_folder = root.is_dir()
    try:
        for batch in watch(
            # A file is watched through its folder: editors replace it by another one.
            root if is_folder else root.parent,
            watch_filter=lambda _, path: _is_code(Path(path), root),
            debounce=_DEBOUNCE_MS,
            stop_event=ended,
            recursive=is_folder,
        ):
            changes.put(sorted(Path(path) for _, path in batch))
    except Exception as error:
        changes.put(error)


def _is_code(path: Path, root: Path) -> bool:
    if path == root:
        return path.suffix in _SUFFIXES
    if not path.is_relative_to(root):
        return False
    inner = path.relative_to(root).parts
    return path.suffix in _SUFFIXES and not any(map(_is_left_out, inner[:-1]))


def _is_left_out(folder: str) -> bool:
    """Whether a folder holds no code of the project: hidden ones, tests, installed packages."""
    return folder.startswith(".") or folder in _NOT_CODE


def _roots_of(module: ModuleType) -> set[Path]:
    """The folders of a package, or the file of a module, if they are the project's."""
    places = list(getattr(module, "__path__", ()))
    file = getattr(module, "__file__", None)
    paths = [Path(place) for place in places or ([file] if file else [])]
    return {path.resolve() for path in paths if _is_projects(path)}


def _is_projects(path: Path) -> bool:
    """Whether a path is the project's own code, and not a package installed in its folder."""
    home, path = settings().home.resolve(), path.resolve()
    if path == home or not path.is_relative_to(home):
        return False
    prefix, data = Path(sys.prefix).resolve(), settings().data
    inside = any(
        other != home and path.is_relative_to(other) and other.is_relative_to(home)
        for other in (prefix, data)
    )
    return not inside and not any(map(_is_left_out, path.relative_to(home).parts))


def _files_of(error: BaseException) -> set[Path]:
    """The files that had a part in an error."""
    frames = traceback.extract_tb(error.__traceback__)
    files = {Path(frame.filename) for frame in frames}
    if isinstance(error, SyntaxError) and error.filename:
        files.add(Path(error.filename))
    return files


def _root_of(file: Path) -> Path | None:
    """The package or module in the project's folder that a file belongs to."""
    if not _is_projects(file) or not file.exists():
        return None
    home = settings().home.resolve()
    parts = file.resolve().relative_to(home).parts
    depth = 2 if parts[0] == "src" and len(parts) > 1 else 1
    return home.joinpath(*parts[:depth])


def _notes() -> Path:
    return settings().data / "watched-code.json"


def _noted() -> list[Path]:
    try:
        return [Path(name) for name in json.loads(_notes().read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
