"""What this process counts of its requests; `/metrics` shows it."""

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

# A series with the birth of every other one is of no use, and twice the text.
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
    "Parts of webhooks' bodies that were not understood, by webhook.",
    ["webhook"],
    registry=registry,
)
events = Counter("runyard_http_events", "Events accepted over HTTP.", registry=registry)
