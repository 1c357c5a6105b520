"""The Prometheus counters of this process's requests, which `/metrics` shows."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

# Without this every series has a second one with its creation time, which nobody needs.
disable_created_metrics()
registry = CollectorRegistry()
requests = Counter(
    "runyard_http_requests",
    "Requests answered, by endpoint and status.",
    ["endpoint", "status"],
    registry=registry,
)
seconds = Histogram(
    "runyard_http_request_seconds", "Time to answer a request.", ["endpoint"], registry=registry
)
not_understood = Counter(
    "runyard_webhook_not_understood",
    "Parts of webhook bodies that could not be parsed, by webhook.",
    ["webhook"],
    registry=registry,
)
events = Counter("runyard_http_events", "Events accepted over HTTP.", registry=registry)
checks = Gauge(
    "runyard_check",
    "1 if a check of /readyz?all=true passes.",
    ["check"],
    registry=registry,
)
