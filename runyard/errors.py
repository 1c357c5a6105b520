"""The errors that a user of Runyard can meet, with who sees each of them and what to do."""

from collections.abc import Sequence
from datetime import datetime


class RunyardError(Exception):
    """The base of every error that Runyard raises on purpose; its text names the next step."""


class InvalidEvent(RunyardError):
    """Seen by whoever sends an event that breaks a rule, or does not fit its type in the catalog.

    Attributes
    ----------
    field
        The path of the offending field (`data.to`), or an empty string for the event as a whole.
    problems
        The path and the message of every problem.
    """

    def __init__(self, message: str, field: str = "", more: Sequence[tuple[str, str]] = ()) -> None:
        whole = "; ".join([message, *(f"{path}: {text}" for path, text in more)])
        super().__init__(f"{field}: {whole}" if field else whole)
        self.field = field
        self.problems = [(field, message), *more]

    def of_item(self, position: int) -> "InvalidEvent":
        """Return the error with paths for an event at a position in a list: `[2].data.to`."""
        place = f"[{position}]"
        (field, message), *more = [
            (f"{place}.{path}" if path else place, text) for path, text in self.problems
        ]
        return InvalidEvent(message, field, more)


class InvalidInput(RunyardError):
    """Seen by whoever runs a command whose file, standard input or option is unreadable or empty.

    The command's exit code is 2.
    """


class InvalidOption(RunyardError):
    """Seen by the developer whose option is out of range, or contradicts another."""


class DatabaseUnavailable(RunyardError):
    """Seen by any caller: the database cannot be reached.

    Start it (`runyard up`), or set DATABASE_URL. `lost` says that a connection was lost during the
    work, which may or may not be done; without it nothing was done.
    """

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class DatabaseBusy(DatabaseUnavailable):
    """Seen by any caller: the database answers that it cannot do this now. Send it again.

    It has no memory or disk space left, or has resolved a deadlock.
    """


class SchemaOutOfDate(RunyardError):
    """Seen by any process that starts before the migrations have run. Run `runyard migrate`."""


class SchemaUnusable(RunyardError):
    """Seen by a process whose code can neither use the database nor migrate it.

    A newer version has migrated it: install the version that the error names. Or it is from before
    the first release: create it anew.
    """


class LeaseLost(RunyardError):
    """Seen in a run whose batch was given to another run, as no heartbeat came for too long.

    Nothing that it does is saved from then on. No action is needed: the other run does the work.
    """

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"another run has taken over batch {batch_id}; this run stops")


class StepHung(LeaseLost):
    """Seen in a run in which a step hung, and whose process must not be ended.

    The run has ended instead, and the step's thread was abandoned. No action is needed for the
    other invocations of the run: another run resumes them.
    """

    def __init__(self, message: str) -> None:
        RunyardError.__init__(self, message)


class StepTimeout(RunyardError, TimeoutError):
    """The error of an invocation whose step did not end within its timeout, and was killed.

    It is retried as the `Retry` of the function or the step says, also by
    `by_type={TimeoutError: ...}`. Give the step more time with `timeout=`, or set a shorter timeout
    on what it calls.
    """


class NothingToDo(RunyardError):
    """Seen in a run that was launched without events, or whose events another run has taken."""


class NonRetriable(RunyardError):
    """Raised by a step whose failure no other attempt can fix: the invocation fails for good."""


class InvokeFailed(NonRetriable):
    """Raised by `invoke` when the invoked function failed, was cancelled or was skipped.

    `outcome` describes how it ended.
    """

    def __init__(self, message: str, outcome: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome or {}


class Cancelled(NonRetriable):
    """Why an invocation left its batch: it was cancelled by a command, an event or a timeout."""


class RetryAfter(RunyardError):
    """Raised by a step to say when to try again.

    Parameters
    ----------
    message
        What happened.
    when
        Seconds from now, or a datetime with a time zone.
    """

    def __init__(self, message: str, when: float | datetime) -> None:
        super().__init__(message)
        if isinstance(when, datetime):
            if when.utcoffset() is None:
                raise InvalidOption(
                    "RetryAfter(when=...): give the datetime a time zone, as in datetime.now(UTC)"
                )
        elif isinstance(when, bool) or not isinstance(when, int | float) or when != when:
            raise InvalidOption(
                "RetryAfter(when=...): give seconds from now as a number, or a datetime, "
                f"not {type(when).__name__}"
            )
        self.when = when


_interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)


def add_interrupt(kind: type[BaseException]) -> None:
    """Make an exception one that ends a run, and not only the step in which it is raised."""
    global _interrupts
    _interrupts = (*dict.fromkeys((*_interrupts, kind)),)


def interrupts() -> tuple[type[BaseException], ...]:
    """Return the exceptions that end a run, for an `except` clause."""
    return _interrupts
