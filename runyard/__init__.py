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
from runyard.errors import (
    InvalidEvent,
    InvalidOption,
    InvokeFailed,
    NonRetriable,
    RetryAfter,
    RunyardError,
    StepTimeout,
)
from runyard.events import Event, EventData, event_type
from runyard.functions.flow_control import (
    BatchEvents,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)
from runyard.functions.retry import Retry
from runyard.functions.triggers import Cron, Trigger

if TYPE_CHECKING:
    from runyard.dagster_adapter.io_manager import BatchIOManager
    from runyard.dagster_adapter.ops import join, receive, settle
    from runyard.dagster_adapter.sensors import on_event
    from runyard.engine.batch import Batch
    from runyard.engine.items import Item

_LAZY = {
    "Batch": "runyard.engine.batch",
    "Item": "runyard.engine.items",
    "BatchIOManager": "runyard.dagster_adapter.io_manager",
    "join": "runyard.dagster_adapter.ops",
    "receive": "runyard.dagster_adapter.ops",
    "settle": "runyard.dagster_adapter.ops",
    "on_event": "runyard.dagster_adapter.sensors",
}

__all__ = [
    "Batch",
    "BatchEvents",
    "BatchIOManager",
    "CancelOn",
    "Concurrency",
    "Cron",
    "Debounce",
    "Event",
    "EventData",
    "Idempotency",
    "InvalidEvent",
    "InvalidOption",
    "InvokeFailed",
    "Item",
    "NonRetriable",
    "Priority",
    "RateLimit",
    "Retry",
    "RetryAfter",
    "RunyardError",
    "Singleton",
    "StepTimeout",
    "Throttle",
    "Timeouts",
    "Trigger",
    "event_type",
    "join",
    "on_event",
    "receive",
    "send",
    "send_async",
    "settle",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'runyard' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
