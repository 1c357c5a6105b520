"""The statuses of invocations and batches, and every group of them that code asks about."""

from typing import Literal, get_args

Status = Literal[
    "queued",
    "claimed",
    "running",
    "sleeping",
    "waiting",
    "grouped",
    "succeeded",
    "failed",
    "cancelled",
    "skipped",
]
STATUSES: tuple[Status, ...] = get_args(Status)
# An invocation in one of these ends there; all others are open.
FINAL: tuple[Status, ...] = ("succeeded", "failed", "cancelled", "skipped")
OPEN: tuple[Status, ...] = ("queued", "claimed", "running", "sleeping", "waiting", "grouped")
# Open, but in no run at the moment. (What is grouped is where its leader is.)
SUSPENDED: tuple[Status, ...] = ("sleeping", "waiting")
NOT_RUNNING: tuple[Status, ...] = ("queued", *SUSPENDED)
# What each bulk action applies to, and what a replay takes when the selection names no status and
# nothing else that narrows it down: repeating successes has to be asked for.
REPLAYABLE: tuple[Status, ...] = FINAL
CANCELLABLE: tuple[Status, ...] = OPEN
DISMISSIBLE: tuple[Status, ...] = ("failed",)
REPLAYED_BY_DEFAULT: tuple[Status, ...] = ("failed", "cancelled")

# A batch that a run works on, or is about to.
OPEN_BATCH = ("claimed", "running")
# A batch whose run may still be launched, or was reported lost while it was.
LAUNCHABLE_BATCH = ("claimed", "lost")
