"""What `runyard up` watches: the project's code, whatever its name."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runyard.processes.watched_code import code_changes, note_loaded_code, watched_roots
from runyard.settings import settings
from tests.conftest import wait_until


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a project: the package `kiosk` and what lies beside it."""
    for name in (
        "kiosk/__init__.py",
        "kiosk/sql/orders.sql",
        "kiosk/pages/order.html",
        "kiosk/tests/test_kiosk.py",
        "kiosk/node_modules/some.py",
        "kiosk_prices.py",
        "src/kiosk_shared/__init__.py",
        "templates/mail.txt",
        ".venv/lib/kiosk_dependency.py",
        "tests/kiosk_test_helper.py",
        "kiosk_unused.py",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (tmp_path / "kiosk/definitions.py").write_text(
        "import kiosk_prices, kiosk_shared, kiosk_dependency, kiosk_test_helper\n"
    )
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path))
    monkeypatch.setenv("RUNYARD_DATA_DIR", str(tmp_path / ".runyard"))
    monkeypatch.setenv("RUNYARD_CODE", "kiosk.definitions")
    for folder in (".", "src", ".venv/lib", "tests"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    settings.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    settings.cache_clear()
    for name in [name for name in sys.modules if name.startswith("kiosk")]:
        del sys.modules[name]


def load() -> BaseException | None:
    """Import the project's code as the code server does, and note what it has loaded."""
    error: BaseException | None = None
    began = time.time()
    try:
        __import__("kiosk.definitions")
    except Exception as raised:
        error = raised
    note_loaded_code(began, error)
    return error


def watched(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in watched_roots())


def test_before_the_code_is_loaded_its_own_package_is_watched(home: Path) -> None:
    assert watched(home) == ["kiosk", "templates"]


def test_what_the_code_imports_from_the_projects_folder_is_watched(home: Path) -> None:
    assert load() is None
    assert watched(home) == ["kiosk", "kiosk_prices.py", "src/kiosk_shared", "templates"]


def test_a_module_that_does_not_load_is_watched(home: Path) -> None:
    (home / "kiosk_prices.py").write_text("price = \n")
    assert isinstance(load(), SyntaxError)
    assert "kiosk_prices.py" in watched(home)


def test_what_was_loaded_before_a_bad_edit_stays_watched(home: Path) -> None:
    assert load() is None
    for name in [name for name in sys.modules if name.startswith("kiosk")]:
        del sys.modules[name]
    (home / "kiosk/definitions.py").write_text("import kiosk_nowhere\n")
    assert isinstance(load(), ModuleNotFoundError)
    assert "src/kiosk_shared" in watched(home)


@pytest.fixture
def changed(home: Path) -> Iterator[Callable[[], set[str]]]:
    """The names of all files whose changes have been seen, once watching has begun."""
    assert load() is None
    seen: set[str] = set()
    stopped = threading.Event()

    def collect() -> None:
        for paths in code_changes(stopped):
            seen.update(str(path.relative_to(home)) for path in paths)

    thread = threading.Thread(target=collect)
    thread.start()

    def begun() -> bool:
        for root in ("kiosk", "src/kiosk_shared"):
            (home / root / "__init__.py").write_text("# begun\n")
        (home / "kiosk_prices.py").write_text("# begun\n")
        return {"kiosk/__init__.py", "src/kiosk_shared/__init__.py", "kiosk_prices.py"} <= seen

    wait_until(begun)
    yield lambda: seen
    stopped.set()
    thread.join()


@pytest.mark.parametrize(
    "name",
    [
        "kiosk/new_module.py",
        "kiosk/sql/orders.sql",
        "kiosk/pages/order.html",
        "templates/mail.txt",
        "src/kiosk_shared/__init__.py",
    ],
)
def test_a_change_of_code_sql_or_a_template_is_seen(
    home: Path, changed: Callable[[], set[str]], name: str
) -> None:
    def seen() -> bool:
        (home / name).write_text("# changed\n")
        return name in changed()

    wait_until(seen)


def test_what_changes_after_the_code_was_loaded_and_before_it_is_watched_is_seen(
    home: Path,
) -> None:
    assert load() is None
    written = [home / "kiosk/definitions.py", home / "kiosk_prices.py"]
    for path in written:
        path.write_text("# changed\n")
    stopped = threading.Event()
    seen: set[Path] = set()
    for paths in code_changes(stopped):
        seen.update(paths)
        if seen >= set(written):
            stopped.set()
    assert seen == set(written)


def test_what_has_not_changed_since_the_code_was_loaded_is_not_seen(home: Path) -> None:
    assert load() is None
    stopped = threading.Event()
    looks = [next(changes) for changes in [code_changes(stopped)] for _ in range(3)]
    assert looks == [[], [], []]


def test_a_module_that_an_editor_replaces_is_seen_every_time(
    home: Path, changed: Callable[[], set[str]]
) -> None:
    for _ in range(3):
        changed().clear()
        draft = home / "draft~"
        draft.write_text("# replaced\n")
        draft.rename(home / "kiosk_prices.py")
        wait_until(lambda: "kiosk_prices.py" in changed())


def test_a_module_that_the_code_begins_to_import_is_watched(
    home: Path, changed: Callable[[], set[str]]
) -> None:
    began = time.time()
    __import__("kiosk_unused")
    note_loaded_code(began)

    def seen() -> bool:
        (home / "kiosk_unused.py").write_text("# changed\n")
        return "kiosk_unused.py" in changed()

    wait_until(seen)


def test_tests_installed_packages_and_data_are_not_seen(
    home: Path, changed: Callable[[], set[str]]
) -> None:
    names = {
        "kiosk/tests/test_kiosk.py",
        "kiosk/node_modules/some.py",
        ".venv/lib/kiosk_dependency.py",
        "tests/kiosk_test_helper.py",
        ".runyard/note.py",
    }
    for name in names:
        (home / name).write_text("# changed\n")
    (home / "kiosk/last.py").write_text("# the last change\n")
    wait_until(lambda: "kiosk/last.py" in changed())
    assert changed() & names == set()
