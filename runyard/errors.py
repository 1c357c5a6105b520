"""The errors a user of Runyard can meet: one small tree, each with who sees it and what to do."""

from collections.abc import Sequence
from datetime import datetime


class RunyardError(Exception):
    """The root of every error that Runyard raises on purpose; its text names the next step."""


class InvalidEvent(RunyardError):
    """Seen by whoever sends an event: it breaks a rule of the door or of its type in the catalog.

    `field` is the path of the bad field (`data.to`), or an empty string when the event as a whole is at fault; `problems` has the path and the
    message of every one.
    """

    def __init__(self, message: str, field: str = "", more: Sequence[tuple[str, str]] = ()) -> None:
        whole = "; ".join([message, *(f"{path}: {text}" for path, text in more)])
        super().__init__(f"{field}: {whole}" if field else whole)
        self.field = field
        self.problems = [(field, message), *more]

    def of_item(self, position: int) -> "InvalidEvent":
        """The same of one of several events, by its place among them: `[2].data.to`."""
        place = f"[{position}]"
        (field, message), *more = [
            (f"{place}.{path}" if path else place, text) for path, text in self.problems
        ]
        return InvalidEvent(message, field, more)


class InvalidInput(RunyardError):
    """Seen by whoever runs a command: a file, standard input or an option cannot be read, or holds nothing. Its exit code is 2."""


class InvalidOption(RunyardError):
    """Seen by the developer when the code loads: an option of `on_event` is out of its range, or contradicts another."""


class DatabaseUnavailable(RunyardError):
    """Seen by any caller: the database cannot be reached. Start it (`runyard up`) or set DATABASE_URL."""


class DatabaseBusy(DatabaseUnavailable):
    """Seen by any caller: the database is there, and says that it cannot do this now (no memory, no disk, a deadlock). Send it again."""


class SchemaOutOfDate(RunyardError):
    """Seen by any process that starts before the migrations ran. Run `runyard migrate`."""


class LeaseLost(RunyardError):
    """Seen in a run whose batch was given to another run, because this one was silent for too long.

    Nothing it does is kept from then on. No action is needed: the other run does the work.
    """

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"batch {batch_id} is no longer this run's: another run goes on with it")


class StepHung(LeaseLost):
    """Seen in a run in which a step did not end in time, where its process must not be ended.

    The run has ended instead, and the thread is left behind.
    No action is needed for the other invocations of the run: another run goes on with them.
    """

    def __init__(self, message: str) -> None:
        RunyardError.__init__(self, message)


class StepTimeout(RunyardError, TimeoutError):
    """Why a step of an invocation failed: it was not over at its time limit, and was ended.

    It is tried again as the function's or the step's `Retry` says, also by `by_type={TimeoutError: ...}`.
    Give the step more time with `timeout=`, or give what it calls a shorter limit of its own.
    """


class NothingToDo(RunyardError):
    """Seen in a run that was launched without events, or whose events another run has taken."""


class NonRetriable(RunyardError):
    """Raised by a step to say that another attempt cannot help: the invocation fails for good."""


class InvokeFailed(NonRetriable):
    """Raised by `invoke` when the invoked function failed, was cancelled or skipped; `outcome` is what is known of its end."""

    def __init__(self, message: str, outcome: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome or {}


class Cancelled(NonRetriable):
    """Why an invocation left its batch: somebody cancelled it, by command, by an event or by a timeout."""


class RetryAfter(RunyardError):
    """Raised by a step to say when to try again.

    Parameters
    ----------
    message
        What happened.
    when
        Seconds from now, or the time itself (with a time zone).
    """

    def __init__(self, message: str, when: float | datetime) -> None:
        super().__init__(message)
        if isinstance(when, datetime):
            if when.utcoffset() is None:
                raise InvalidOption(
                    "RetryAfter(when=...): give the time a time zone, as in datetime.now(UTC)"
                )
        elif isinstance(when, bool) or not isinstance(when, int | float) or when != when:
            raise InvalidOption(
                f"RetryAfter(when=...): give seconds from now as a number, or the time as a datetime, not {type(when).__name__}"
            )
        self.when = when


_interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)


def add_interrupt(kind: type[BaseException]) -> None:
    """Make an exception one that ends a run, and not just the step that it reaches."""
    global _interrupts
    _interrupts = (*dict.fromkeys((*_interrupts, kind)),)


def interrupts() -> tuple[type[BaseException], ...]:
    """The exceptions that end a run, for an `except` clause."""
    return _interrupts
