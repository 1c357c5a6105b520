"""What a web process has to do with traces: requests that send events, and the dev page."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.collector import Collector
from tests.example_trace import SPAN, TRACE, TRACEPARENT
from tests.ports import free_port
from tests.tables import rows
from tests.web_process import WebProcess, web_in_development


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def start(
    web: WebProcess, web_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., WebProcess]:
    """Starts a web process that records traces for a collector."""

    def start(collector: Collector, delay: int, **variables: str) -> WebProcess:
        own = WebProcess(
            web_database_url,
            tmp_path_factory.mktemp("traced") / "log",
            RUNYARD_TRACES="otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY=str(delay),
            **variables,
        )
        own.keys = web.keys
        own.start()
        return own

    return start


@pytest.fixture(scope="module")
def traced(start: Callable[..., WebProcess], collector: Collector) -> Iterator[WebProcess]:
    """A web process that records traces."""
    own = start(collector, 50, OTEL_SERVICE_NAME="shop-events")
    yield own
    own.stop()


@pytest.fixture(autouse=True)
def nothing_recorded(collector: Collector) -> None:
    collector.spans.clear()


def trace_of(event_id: str) -> str | None:
    [row] = rows("SELECT trace FROM runyard.events WHERE id = %s", event_id)
    return row["trace"]


def post(web: WebProcess, path: str, body: object, **headers: str) -> httpx.Response:
    return web.ask("POST", path, headers=headers, json=body)


EVENT = {"name": "greet/requested", "data": {"card": "hunter2secret"}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/events", EVENT),
        ("/e/{key}", EVENT),
        ("/api/inngest/trigger", {"event": "greet/requested", "data": EVENT["data"]}),
    ],
)
def test_a_request_that_sends_is_a_span_below_that_of_its_sender_and_the_parent_of_the_event(
    traced: WebProcess, collector: Collector, path: str, body: object
) -> None:
    answer = post(traced, path.format(key=traced.keys["all"]), body, traceparent=TRACEPARENT)
    [event_id] = answer.json()["ids"] if "ids" in answer.json() else [answer.json()["event_id"]]
    collector.wait_for(lambda collector: bool(collector.spans))
    [span] = collector.spans
    assert (span.name, span.kind, span.service) == (
        "send greet/requested",
        "producer",
        "shop-events",
    )
    assert (span.trace, span.parent) == (TRACE, SPAN)
    assert trace_of(event_id) == f"00-{TRACE}-{span.id}-01"
    assert span.attributes["runyard.event.id"] == event_id
    assert "hunter2secret" not in repr(span)


def test_events_of_a_request_with_a_trace_share_its_span(
    traced: WebProcess, collector: Collector
) -> None:
    ids = post(traced, "/api/events", [EVENT, EVENT], traceparent=TRACEPARENT).json()["ids"]
    collector.wait_for(lambda collector: bool(collector.spans))
    [span] = collector.spans
    assert span.attributes["messaging.batch.message_count"] == 2
    assert {trace_of(one) for one in ids} == {f"00-{TRACE}-{span.id}-01"}


def test_events_of_a_request_without_a_trace_begin_one_each(
    traced: WebProcess, collector: Collector
) -> None:
    ids = post(traced, "/api/events", [EVENT, EVENT]).json()["ids"]
    collector.wait_for(lambda collector: len(collector.spans) == 2)
    assert {span.attributes["runyard.event.id"] for span in collector.spans} == set(ids)
    assert {span.parent for span in collector.spans} == {""}
    assert {trace_of(one) for one in ids} == {
        f"00-{span.trace}-{span.id}-01" for span in collector.spans
    }


def test_what_is_not_sampled_is_stored_as_it_came(traced: WebProcess, collector: Collector) -> None:
    unsampled = f"00-{TRACE}-{SPAN}-00"
    [event_id] = post(traced, "/api/events", EVENT, traceparent=unsampled).json()["ids"]
    assert trace_of(event_id) == unsampled
    post(traced, "/api/events", EVENT, traceparent=TRACEPARENT)
    collector.wait_for(lambda collector: bool(collector.spans))
    assert [span.trace for span in collector.spans] == [TRACE]
    assert [span.parent for span in collector.spans] == [SPAN]


@pytest.mark.parametrize("malformed", ["nonsense", f"ff-{TRACE}-{SPAN}-01", TRACEPARENT * 20])
def test_a_malformed_traceparent_is_ignored(web: WebProcess, malformed: str) -> None:
    answer = post(web, "/api/events", EVENT, traceparent=malformed)
    assert answer.status_code == 200
    assert trace_of(answer.json()["ids"][0]) is None


def test_a_web_process_that_is_stopped_delivers_what_it_has(
    start: Callable[..., WebProcess], collector: Collector
) -> None:
    own = start(collector, 3_600_000)
    post(own, "/api/events", EVENT, traceparent=TRACEPARENT)
    own.stop()
    assert [span.name for span in collector.spans] == ["send greet/requested"]


def test_a_collector_that_hangs_holds_up_no_request_and_no_stop(
    start: Callable[..., WebProcess],
) -> None:
    with Collector() as hanging:
        hanging.mode = "hangs"
        own = start(hanging, 10)
        post(own, "/api/events", EVENT)
        hanging.wait_for(lambda hanging: hanging.requests > 0)
        assert post(own, "/api/events", [EVENT] * 3000).status_code == 200
        own.stop()  # within 15 s


@pytest.fixture
def dev_page(web_database_url: str) -> Iterator[Callable[..., str]]:
    """Starts web processes in development, which are stopped after the test."""
    started = []

    def start(**variables: str) -> str:
        port = free_port()
        started.append(web_in_development(web_database_url, port, **variables))
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        process.wait(15)


def _pages(url: str) -> tuple[str, str]:
    """The pages of an event that was just sent, and of its first invocation."""
    [event_id] = httpx.post(
        f"{url}/api/events", json=EVENT, headers={"traceparent": TRACEPARENT}
    ).json()["ids"]
    invocations = rows("SELECT id FROM runyard.invocations WHERE event_id = %s", event_id)
    return (
        httpx.get(f"{url}/dev/events/{event_id}").text,
        httpx.get(f"{url}/dev/invocations/{invocations[0]['id']}").text,
    )


def test_the_dev_page_links_to_a_trace_that_is_recorded(dev_page: Callable[..., str]) -> None:
    url = dev_page(
        RUNYARD_TRACES="otlp", RUNYARD_TRACE_URL="https://tempo.example/trace/{trace_id}?a=1&b=2"
    )
    link = f'href="https://tempo.example/trace/{TRACE}?a=1&amp;b=2"'
    assert [link in page for page in _pages(url)] == [True, True]


def test_the_dev_page_links_to_no_trace_that_is_not_recorded(dev_page: Callable[..., str]) -> None:
    url = dev_page(RUNYARD_TRACE_URL="https://tempo.example/trace/{trace_id}")
    assert ["tempo.example" in page for page in _pages(url)] == [False, False]
