"""`GET /metrics`, for Prometheus: this process's requests, and the state of the queues."""

from collections.abc import Iterable

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.gateway.http import counters
from runyard.gateway.http.auth import check_for_all_events
from runyard.gateway.http.endpoint import Call, Endpoint
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all


class _Queues(Collector):
    """The state of the queues, read from the database on every scrape."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: otherwise the registry would query the database on import."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges."""
        waiting = _gauge(
            "runyard_invocations", "Invocations that are not final.", "function", "status"
        )
        overdue = _gauge(
            "runyard_oldest_due_seconds",
            "Seconds for which the oldest queued invocation has been due.",
            "function",
        )
        failed = _gauge(
            "runyard_dead_letters", "Final failures neither replayed nor dismissed.", "function"
        )
        paused = _gauge("runyard_function_paused", "1 while a function is paused.", "function")
        batches = _gauge(
            "runyard_batches",
            "Batches waiting for a worker (claimed) or running.",
            "function",
            "status",
        )
        slots = _gauge(
            "runyard_worker_slots", "Runs that each live worker can execute at a time.", "worker"
        )
        caller_slots = _gauge(
            "runyard_caller_slots",
            "Runs of functions of applications that each live caller can execute at a time.",
            "caller",
        )
        with database.connection() as connection:
            for row in fetch_all(connection, "queues"):
                waiting.add_metric([row["function"], row["status"]], row["count"])
                if row["status"] == "queued":
                    overdue.add_metric([row["function"]], row["overdue"])
            for row in fetch_all(connection, "open_batch_counts"):
                waiting.add_metric([row["function"], row["status"]], row["invocations"])
                batches.add_metric([row["function"], row["status"]], row["batches"])
            for row in fetch_all(connection, "function_states"):
                failed.add_metric([row["name"]], row["failed"])
                paused.add_metric([row["name"]], row["paused"])
            for row in fetch_all(connection, "workers"):
                if row["silent"] < settings().lease_seconds:
                    gauge = caller_slots if row["remote"] else slots
                    gauge.add_metric([row["name"]], row["slots"])
        return [waiting, overdue, failed, paused, batches, slots, caller_slots]


def _gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, labels=labels)


counters.registry.register(_Queues())


async def metrics(call: Call) -> Response:
    """All metrics in Prometheus's text format."""
    check_for_all_events(call.caller)
    return Response(
        await run_in_threadpool(generate_latest, counters.registry), media_type=CONTENT_TYPE_LATEST
    )


ENDPOINTS = [
    Endpoint(
        "GET",
        "/metrics",
        metrics,
        "Health",
        "Metrics for Prometheus.",
        "read",
        media_types=("text/plain",),
    )
]
