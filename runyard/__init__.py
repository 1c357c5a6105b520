"""Runyard: event-driven background jobs on Dagster, on one Postgres.

The way of an event through the rooms of this package:

1. An application calls `send` (`client`), which validates its events (`events`) and inserts them
   (`store`). A trigger in the database creates an invocation for every function that the event
   starts: `functions` holds what a function is declared with, and publishes it there.
2. The daemon (`processes`) learns that invocations are due (`engine.due`). It claims them in
   batches, under a lease (`engine.batch_claims`), and creates one Dagster run per batch, as the
   function's sensor (`dagster_adapter`).
3. A warm worker (`processes.workers`) executes the run. Its ops hand a `Batch` (`engine.batch`)
   from step to step; the result of each step is a checkpoint in the event table
   (`engine.steps`). A step may also suspend its invocation until a time or an event comes
   (`engine.waits`).
4. The last op settles the batch: each invocation succeeds, fails, is queued for another attempt,
   or stays suspended. Should the worker be lost, its lease runs out, and a later run resumes
   behind the last completed step.
5. The HTTP API and the dev page (`gateway`) and the command line (`cli`) send events, show
   invocations, and replay, cancel or pause them. `testing` runs all of this inside a test.

`text` and `syntax` are helpers of every room: text that is safe to store and to show, and parsers
of durations, times and paths. A room imports only rooms below it; `engine` and those below it do
not import Dagster.

Importing `runyard` to send events does not import Dagster either: the names for writing functions
are loaded when they are first used.
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
    from runyard.authoring.definitions import definitions
    from runyard.authoring.function import EventFunction, function
    from runyard.authoring.run import Run
    from runyard.authoring.step import Step, step
    from runyard.dagster_adapter.io_manager import BatchIOManager
    from runyard.dagster_adapter.ops import join, receive, settle
    from runyard.dagster_adapter.sensors import on_event
    from runyard.engine.batch import Batch
    from runyard.engine.bulk import Selection
    from runyard.engine.control import cancel, pause, replay, resume, run_now
    from runyard.engine.items import Item

_LAZY = {
    "Batch": "runyard.engine.batch",
    "EventFunction": "runyard.authoring.function",
    "Run": "runyard.authoring.run",
    "Step": "runyard.authoring.step",
    "definitions": "runyard.authoring.definitions",
    "function": "runyard.authoring.function",
    "step": "runyard.authoring.step",
    "BatchIOManager": "runyard.dagster_adapter.io_manager",
    "Item": "runyard.engine.items",
    "Selection": "runyard.engine.bulk",
    "cancel": "runyard.engine.control",
    "join": "runyard.dagster_adapter.ops",
    "on_event": "runyard.dagster_adapter.sensors",
    "pause": "runyard.engine.control",
    "receive": "runyard.dagster_adapter.ops",
    "replay": "runyard.engine.control",
    "resume": "runyard.engine.control",
    "run_now": "runyard.engine.control",
    "settle": "runyard.dagster_adapter.ops",
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
    "EventFunction",
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
    "Run",
    "RunyardError",
    "Selection",
    "Singleton",
    "Step",
    "StepTimeout",
    "Throttle",
    "Timeouts",
    "Trigger",
    "cancel",
    "definitions",
    "event_type",
    "function",
    "join",
    "on_event",
    "pause",
    "receive",
    "replay",
    "resume",
    "run_now",
    "send",
    "send_async",
    "settle",
    "step",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'runyard' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
