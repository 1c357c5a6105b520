"""`GET /metrics`, for Prometheus: what this process has answered, and what waits in the event table at this moment."""

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


class _EventTable(Collector):
    """The queues of the event table, asked for when the metrics are."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: else the registry would ask the database when this module is imported."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges."""
        waiting = GaugeMetricFamily(
            "runyard_invocations",
            "Invocations that are not final, by function and status.",
            labels=["function", "status"],
        )
        overdue = GaugeMetricFamily(
            "runyard_oldest_due_seconds",
            "For how long the first queued invocation has been due.",
            labels=["function"],
        )
        failed = GaugeMetricFamily(
            "runyard_dead_letters",
            "Final failures that were neither replayed nor dismissed.",
            labels=["function"],
        )
        paused = GaugeMetricFamily(
            "runyard_function_paused", "1 while a function is paused.", labels=["function"]
        )
        batches = GaugeMetricFamily(
            "runyard_batches",
            "Batches that wait for a worker (claimed) or run.",
            labels=["function", "status"],
        )
        slots = GaugeMetricFamily(
            "runyard_worker_slots",
            "Runs that the living workers can do at a time.",
            labels=["worker"],
        )
        with database.connection() as connection:
            for row in fetch_all(connection, "queues"):
                waiting.add_metric([row["function"], row["status"]], row["count"])
                if row["status"] == "queued":
                    overdue.add_metric([row["function"]], row["overdue"])
            for row in fetch_all(connection, "under_way"):
                waiting.add_metric([row["function"], row["status"]], row["invocations"])
                batches.add_metric([row["function"], row["status"]], row["batches"])
            for row in fetch_all(connection, "function_states"):
                failed.add_metric([row["name"]], row["failed"])
                paused.add_metric([row["name"]], row["paused"])
            for row in fetch_all(connection, "workers"):
                if row["silent"] < settings().lease_seconds:
                    slots.add_metric([row["name"]], row["slots"])
        return [waiting, overdue, failed, paused, batches, slots]


counters.registry.register(_EventTable())


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
