"""The thread that saves what steps show goes on, whatever happens to what it saves."""

import subprocess
import sys
import threading

import pytest

from runyard.engine.background_saver import BackgroundSaver

FORK = """
import os, signal, threading
from runyard.engine.background_saver import BackgroundSaver

class Shown:
    def __init__(self, name):
        self.name = name
    def save_changes(self):
        print(self.name, os.getpid() == parent, flush=True)
        saved.set()

parent, saved = os.getpid(), threading.Event()
saver = BackgroundSaver("saver", "texts", 0.01)
of_parent = Shown("of the parent")
saver._changed.add(of_parent)
saver._lock.acquire()  # as another thread may while this one forks
if child := os.fork():
    os.waitpid(child, 0)
else:
    signal.alarm(20)
    print(len(saver._changed), flush=True)
    of_child = Shown("of the child")
    saver.add(of_child)
    saved.wait()
    os._exit(0)
"""


class Shown:
    """What changes, and fails to be saved at first."""

    def __init__(self, *errors: BaseException) -> None:
        self.saved = threading.Event()
        self._errors = list(errors)

    def save_changes(self) -> None:
        if self._errors:
            raise self._errors.pop()
        self.saved.set()


@pytest.fixture
def saver() -> BackgroundSaver:
    return BackgroundSaver("a-saver", "texts", 0.01)


def test_what_could_not_be_saved_is_saved_later(saver: BackgroundSaver) -> None:
    shown = Shown(ValueError("the database is away"))
    saver.add(shown)
    assert shown.saved.wait(30)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_replaced(saver: BackgroundSaver) -> None:
    saver.add(fatal := Shown(GeneratorExit()))
    ended = saver._thread
    assert ended is not None
    ended.join(30)
    saver.add(fatal)
    assert fatal.saved.wait(30)


def test_a_child_process_saves_its_own_changes_and_not_those_of_its_parent() -> None:
    forked = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=60
    )
    assert forked.stdout == "0\nof the child False\n"
