"""`traceparent`, and which traces are sampled."""

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from runyard.syntax.trace_options import Sampler, problem_with_traces
from runyard.syntax.traceparent import TraceContext, parse_traceparent
from runyard.tracing.contexts import trace_id_of_event
from tests.example_trace import SPAN, TRACE, TRACEPARENT


def test_a_traceparent_names_a_trace_a_span_and_whether_it_is_sampled() -> None:
    assert parse_traceparent(TRACEPARENT) == TraceContext(
        int(TRACE, 16), int(SPAN, 16), sampled=True
    )
    assert str(parse_traceparent(TRACEPARENT)) == TRACEPARENT


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)]
)
def test_only_the_last_bit_of_the_flags_says_whether_it_is_sampled(
    flags: str, sampled: bool
) -> None:
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}")
    assert context is not None
    assert context.sampled is sampled


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        "",
        "nonsense",
        TRACEPARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{TRACEPARENT}-more",
        f" {TRACEPARENT}",
        f"{TRACEPARENT}\n",
        f"00-{TRACE}-{SPAN}",
        f"01-{TRACE}-{SPAN}-01-{'x' * 500}",
    ],
)
def test_a_malformed_traceparent_is_none(malformed: str | None) -> None:
    assert parse_traceparent(malformed) is None


def test_a_later_version_counts_for_what_it_shares_with_the_present_one() -> None:
    assert str(parse_traceparent(f"cc-{TRACE}-{SPAN}-01-what-may-come")) == TRACEPARENT


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
def test_the_same_traces_are_sampled_as_by_opentelemetry(ratio: float) -> None:
    ids = [trace_id_of_event(f"event {number}") for number in range(500)]
    theirs = TraceIdRatioBased(ratio)
    ours = Sampler("parentbased_traceidratio", ratio)
    assert [ours.samples(one, None) for one in ids] == [
        theirs.should_sample(None, one, "").decision.is_sampled() for one in ids
    ]


def test_about_the_asked_for_share_of_events_is_sampled() -> None:
    sampler = Sampler("parentbased_traceidratio", 0.1)
    count = sum(sampler.samples(trace_id_of_event(f"{number}"), None) for number in range(10_000))
    assert 800 < count < 1_200


@pytest.mark.parametrize("sampled", [True, False])
def test_a_sampler_based_on_the_parent_follows_it(sampled: bool) -> None:
    parent = TraceContext(1, 1, sampled)
    assert Sampler("parentbased_traceidratio", 0.5).samples(2**64 - 1, parent) is sampled
    assert Sampler("always_on", 1.0).samples(1, parent) is True


@pytest.mark.parametrize(
    ("variables", "sampler"),
    [
        ({}, Sampler("parentbased_always_on", 1.0)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampler("always_off", 0.0)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, Sampler("traceidratio", 1.0)),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            Sampler("parentbased_traceidratio", 0.1),
        ),
    ],
)
def test_the_standard_variables_choose_the_sampler(
    variables: dict[str, str], sampler: Sampler
) -> None:
    assert Sampler.from_environment(variables) == sampler
    assert problem_with_traces(variables) is None


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "is not an http or https URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://"}, "is not an http or https URL"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "traces are sent as http/protobuf"),
        ({"OTEL_TRACES_SAMPLER": "some"}, "choose one of always_on"),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"},
            "the share of traces to record, from 0 to 1",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
            "the share of traces to record, from 0 to 1",
        ),
    ],
)
def test_a_wrong_variable_is_named_with_what_to_write(variables: dict[str, str], says: str) -> None:
    problem = problem_with_traces(variables)
    assert problem is not None
    assert says in problem
    assert problem.startswith(next(reversed(variables)))
