"""`GET /metrics`, for Prometheus: this process, the state of the queues, and what has happened.

While the database is away, only what this process knows by itself is told, and soon: Prometheus
waits for ten seconds unless told otherwise.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from anyio import move_on_after, to_thread
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.engine import tallies
from runyard.errors import DatabaseUnavailable
from runyard.gateway.api.health import latest_checks
from runyard.gateway.http import counters
from runyard.gateway.http.auth import check_for_all_events
from runyard.gateway.http.endpoint import Call, Endpoint
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all

_READ_SECONDS = 3.0


class _OfTheDatabase(Collector):
    """What is read from the database on every scrape; nothing while there is no database."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise the registry would query the database on import."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Gauges, counters and histograms."""
        try:
            totals = tallies.totals()
            with database.connection() as connection:
                states = fetch_all(connection, "function_states")
                return [
                    *_queues(connection, states),
                    *_workers(connection),
                    *_server(connection),
                    *_totals(totals, [row["name"] for row in states]),
                ]
        except DatabaseUnavailable:
            return []


def _queues(connection: Connection, states: Sequence[Row]) -> Iterable[Metric]:
    waiting = _gauge("runyard_invocations", "Invocations that are not final.", "function", "status")
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
    for row in fetch_all(connection, "queues"):
        waiting.add_metric([row["function"], row["status"]], row["count"])
        if row["status"] == "queued":
            overdue.add_metric([row["function"]], row["overdue"])
    for row in fetch_all(connection, "open_batch_counts"):
        waiting.add_metric([row["function"], row["status"]], row["invocations"])
        batches.add_metric([row["function"], row["status"]], row["batches"])
    for row in states:
        failed.add_metric([row["name"]], row["failed"])
        paused.add_metric([row["name"]], row["paused"])
    return [waiting, overdue, failed, paused, batches]


def _workers(connection: Connection) -> Iterable[Metric]:
    slots = _gauge(
        "runyard_worker_slots", "Runs that each live worker can execute at a time.", "worker"
    )
    caller_slots = _gauge(
        "runyard_caller_slots",
        "Runs of functions of applications that each live caller can execute at a time.",
        "caller",
    )
    busy = _gauge(
        "runyard_busy_slots", "Runs that each live worker or caller is executing.", "worker"
    )
    silent = _gauge(
        "runyard_worker_silent_seconds",
        "Seconds since the last heartbeat of each worker and caller of the last day.",
        "worker",
    )
    runs = [(row["worker"], row["runs"]) for row in fetch_all(connection, "busy_workers")]
    for row in fetch_all(connection, "workers"):
        silent.add_metric([row["name"]], max(0.0, row["silent"]))
        if row["silent"] < settings().lease_seconds:
            gauge = caller_slots if row["remote"] else slots
            gauge.add_metric([row["name"]], row["slots"])
            mine = [count for process, count in runs if process.startswith(f"{row['name']}:")]
            busy.add_metric([row["name"]], sum(mine))
    return [slots, caller_slots, busy, silent]


def _server(connection: Connection) -> Iterable[Metric]:
    sessions = _gauge(
        "runyard_database_sessions",
        "Sessions of the database server, of all its databases and clients.",
        "state",
    )
    allowed = _gauge("runyard_database_sessions_allowed", "Sessions that the server allows.")
    size = _gauge("runyard_database_bytes", "Size of the database.")
    for row in fetch_all(connection, "database_sessions"):
        sessions.add_metric([row["state"]], row["sessions"])
        allowed.samples.clear()
        allowed.add_metric([], row["allowed"])
    for row in fetch_all(connection, "database_size"):
        size.add_metric([], row["bytes"])
    return [sessions, allowed, size]


def _totals(totals: tallies.Totals, functions: Sequence[str]) -> Iterable[Metric]:
    # Counters begin at 0, so that Prometheus sees the first of anything as an increase.
    none = {(function,): 0 for function in functions}
    no_end = {(function, end): 0 for function in functions for end in ("succeeded", "failed")}
    return [
        _counter("runyard_events_received", "Events received.", totals.received, "event"),
        _counter(
            "runyard_invocations_started", "Invocations begun.", none | totals.started, "function"
        ),
        _counter(
            "runyard_invocations_ended",
            "Invocations ended; those requeued may end again.",
            no_end | totals.ended,
            "function",
            "outcome",
        ),
        _counter(
            "runyard_step_attempts",
            "Attempts of steps.",
            no_end | totals.attempts,
            "function",
            "outcome",
        ),
        _counter(
            "runyard_leases_lost",
            "Batches taken from lost workers.",
            none | totals.lost,
            "function",
        ),
        _histogram(
            "runyard_wait_seconds",
            "Time from due to start, of first and further attempts and after sleeps.",
            totals.waiting,
        ),
        _histogram(
            "runyard_invocation_seconds",
            "Time from the first start to the end, with sleeps and pauses between attempts.",
            totals.running,
        ),
        _histogram("runyard_step_seconds", "Time of an attempt of a step.", totals.stepping),
    ]


class _OfThePool(Collector):
    """The state of this process's pool of connections."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise the registry would open the pool on import."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        stats = database.pool_stats()
        connections = _gauge(
            "runyard_pool_connections", "Connections of this process's pool.", "state"
        )
        connections.add_metric(["idle"], stats.idle)
        connections.add_metric(["used"], stats.used)
        return [
            connections,
            GaugeMetricFamily(
                "runyard_pool_connections_allowed",
                "Connections that the pool may open.",
                value=stats.allowed,
            ),
            GaugeMetricFamily(
                "runyard_pool_waiting",
                "Threads that wait for a connection of the pool.",
                value=stats.waiting,
            ),
        ]


def _gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, labels=labels)


def _counter(
    name: str, description: str, counts: Mapping[tuple[str, ...], int], *labels: str
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, description, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def _histogram(
    name: str, description: str, times: Mapping[tuple[str, ...], tallies.Histogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, description, labels=("function",))
    for values, histogram in sorted(times.items()):
        buckets = [(_bound(bound), float(count)) for bound, count in histogram.buckets]
        family.add_metric(values, buckets, sum_value=histogram.seconds)
    return family


def _bound(seconds: float) -> str:
    return "+Inf" if math.isinf(seconds) else str(seconds)


_of_the_database = CollectorRegistry(auto_describe=False)
_of_the_database.register(_OfTheDatabase())
counters.registry.register(_OfThePool())
ProcessCollector(registry=counters.registry)


async def metrics(call: Call) -> Response:
    """All metrics in Prometheus's text format."""
    check_for_all_events(call.caller)
    checks = {check.name: check.ok for check in await latest_checks()}
    for name, ok in checks.items():
        counters.checks.labels(name).set(ok)
    text = await run_in_threadpool(generate_latest, counters.registry)
    if checks["database"]:
        # It may have begun to hang since it was checked.
        with move_on_after(_READ_SECONDS):
            text += await to_thread.run_sync(
                generate_latest, _of_the_database, abandon_on_cancel=True
            )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


ENDPOINTS = [
    Endpoint(
        "GET",
        "/metrics",
        metrics,
        "Health",
        "Metrics for Prometheus.",
        "read",
        media_types=("text/plain",),
        in_outages=True,
    )
]
