"""The pages of the Dagster UI that show what a run prints, while it prints it.

One thread looks for all of them, every two seconds, and ends with the last page.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from typing_extensions import override

from runyard.dagster_adapter.internals import (
    CapturedLogData,
    CapturedLogSubscription,
    CloudStorageComputeLogManager,
)
from runyard.engine.backoff import Backoff

_INTERVAL_SECONDS = 2.0
_LONGEST_WAIT = 30.0
_log = logging.getLogger("runyard.web")


class Subscription(CapturedLogSubscription):
    """A page that is sent what a run prints, each part of it once."""

    def __init__(
        self,
        manager: CloudStorageComputeLogManager[Any],
        log_key: Sequence[str],
        cursor: str | None,
    ) -> None:
        super().__init__(manager, log_key, cursor)
        self._updating = threading.Lock()

    @override
    def __call__(self, observer: Callable[[CapturedLogData], None] | None) -> Self:
        self._observer = observer
        self.update()
        return self

    def update(self) -> None:
        """Send what is new; the subscription is complete when the run has ended before."""
        with self._updating:
            if self._observer is None or self.is_complete:
                return
            is_over = self._manager.is_capture_complete(self._log_key)
            self.fetch()
            if is_over:
                self.complete()


class OutputPages:
    """The pages that are open."""

    def __init__(self) -> None:
        self._open: set[Subscription] = set()
        self._lock = threading.Lock()
        self._is_looking = False

    def add(self, page: Subscription) -> Subscription:
        """Send what is new to a page from now on."""
        with self._lock:
            self._open.add(page)
            if not self._is_looking:
                self._is_looking = True
                threading.Thread(
                    target=self._look, name="runyard-output-pages", daemon=True
                ).start()
        return page

    def remove(self, page: Subscription) -> None:
        """Send nothing more to a page."""
        with self._lock:
            self._open.discard(page)

    def _look(self) -> None:
        backoff = Backoff(_log, "pages are not sent the output of runs", _LONGEST_WAIT)
        pause, seconds = threading.Event(), _INTERVAL_SECONDS
        while True:
            pause.wait(seconds)
            with self._lock:
                pages = [page for page in self._open if not page.is_complete]
                if not pages:
                    self._open.clear()
                    self._is_looking = False
                    return
            seconds = _update(pages, backoff)


def _update(pages: Sequence[Subscription], backoff: Backoff) -> float:
    """Send pages what is new; return how many seconds to wait until the next time.

    A page that fails does not keep the others waiting.
    """
    errors = [error for page in pages if (error := _error_of(page)) is not None]
    if len(errors) == len(pages):
        return max(_INTERVAL_SECONDS, backoff.failed(errors[0]))
    for error in errors:
        backoff.failed(error)
    backoff.succeeded()
    return _INTERVAL_SECONDS


def _error_of(page: Subscription) -> Exception | None:
    """Send a page what is new; return the error if that fails."""
    try:
        page.update()
    except Exception as error:
        return error
    return None
