"""Runyard: event-driven background jobs on Dagster, on one Postgres.

The story in the order that it happens: an application calls `send` (`client`), which inserts events (`events`,
`store`); a sensor (`sensors`) wakes (`listener`), claims the invocations that the insert made (`dispatch`), and asks
for one Dagster run a batch; a warm worker (`launcher`, `workers`) takes the run; the ops (`ops`) hand a `Batch` (`batch`,
`io_manager`) from step to step, each result kept under a lease (`lease`); the last op settles what became of every
invocation (`flow` says what is tried again), and the `reaper` frees what a lost worker held.

Importing `runyard` to send events does not import Dagster: the names for writing functions are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from runyard.client import send, send_async
from runyard.errors import InvalidEvent, InvalidOption, InvokeFailed, NonRetriable, RetryAfter, RunyardError, StepTimeout
from runyard.events import Event, EventData, event_type
from runyard.flow import Batching, CancelOn, Concurrency, Debounce, Idempotency, Priority, RateLimit, Singleton, Throttle, Timeouts
from runyard.retry import Retry
from runyard.triggers import Cron, Trigger

if TYPE_CHECKING:
    from runyard.batch import Batch, Item
    from runyard.io_manager import BatchIOManager
    from runyard.ops import join, receive, settle
    from runyard.sensors import on_event

_LAZY = {
    "Batch": "runyard.batch",
    "Item": "runyard.batch",
    "BatchIOManager": "runyard.io_manager",
    "join": "runyard.ops",
    "receive": "runyard.ops",
    "settle": "runyard.ops",
    "on_event": "runyard.sensors",
}

__all__ = [
    "Batch", "BatchIOManager", "Batching", "CancelOn", "Concurrency", "Cron", "Debounce", "Event", "EventData", "Idempotency", "InvalidEvent",
    "InvalidOption", "InvokeFailed", "Item", "NonRetriable", "Priority", "RateLimit", "Retry", "RetryAfter", "RunyardError", "Singleton",
    "StepTimeout", "Throttle", "Timeouts", "Trigger", "event_type", "join", "on_event", "receive", "send", "send_async", "settle",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'runyard' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
