"""The checks of what Runyard sends to others: traces to a collector, alerts to their receivers.

They make requests, each of a few seconds at most, so that `runyard doctor` alone runs them.
"""

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

from runyard.processes.alert_delivery import AlertNotSent, reach
from runyard.processes.checks import Check
from runyard.settings import settings
from runyard.syntax.export_options import endpoint


def outside_checks() -> list[Check]:
    """A check of the collector and of every receiver of alerts; none of what is not set."""
    traces = [_collector()] if settings().traces == "otlp" else []
    return [*traces, *_receivers()]


def _collector() -> Check:
    # Imports OpenTelemetry, which is there if traces are on.
    from runyard.tracing.collector import problem_with_collector

    # A URL may hold a password or a token, and headers do.
    parts = urlsplit(endpoint(os.environ))
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    problem = problem_with_collector()
    if not problem:
        return Check("traces", True, f"the collector at {place} takes them")
    return Check(
        "traces",
        False,
        f"the collector at {place} takes none ({problem}): is it running, does it take OTLP over"
        " HTTP there (usually on port 4318), and are the headers in OTEL_EXPORTER_OTLP_HEADERS"
        " right?",
    )


def _receivers() -> Iterator[Check]:
    for receiver in settings().alert_receivers:
        try:
            answer = reach(receiver)
        except AlertNotSent as error:
            yield Check("alerts", False, str(error))
        else:
            yield Check("alerts", True, f"{answer}; `runyard alerts test` sends it a test alert")
