"""What is configured of traces: OpenTelemetry's own variables, and the URL of their pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self

from runyard.syntax.export_options import problem_with_export
from runyard.syntax.traceparent import TraceContext

TRACE_ID = "{trace_id}"
_SAMPLER = "OTEL_TRACES_SAMPLER"
_RATIO = "OTEL_TRACES_SAMPLER_ARG"
_PARENT_BASED = "parentbased_"
_SAMPLERS = tuple(
    prefix + name
    for prefix in ("", _PARENT_BASED)
    for name in ("always_on", "always_off", "traceidratio")
)
_LOW_BITS = 2**64


@dataclass(frozen=True)
class Sampler:
    """Decides which traces are recorded, as OpenTelemetry's own samplers do.

    Attributes
    ----------
    name
        What `OTEL_TRACES_SAMPLER` calls it.
    ratio
        The share of the traces without a parent that it samples, from 0 to 1.
    """

    name: str
    ratio: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the sampler of these variables, of which `problem_with_traces` finds nothing."""
        name = environment.get(_SAMPLER) or "parentbased_always_on"
        if name.endswith("traceidratio"):
            return cls(name, float(environment.get(_RATIO) or 1))
        return cls(name, 1.0 if name.endswith("always_on") else 0.0)

    def samples(self, trace_id: int, parent: TraceContext | None) -> bool:
        """Return whether a trace is recorded.

        All processes with the same variables decide the same, whichever of them is asked first.
        """
        if parent is not None and self.name.startswith(_PARENT_BASED):
            return parent.sampled
        return trace_id % _LOW_BITS < round(self.ratio * _LOW_BITS)


def problem_with_traces(environment: Mapping[str, str]) -> str | None:
    """Return why traces cannot be exported as the variables say, and what to do; None if they can.

    OpenTelemetry itself only warns of a wrong value, and goes on with another one.
    """
    if not _is_installed():
        return (
            "traces need OpenTelemetry, which is not installed: pip install 'runyard[traces]', or"
            " unset RUNYARD_TRACES"
        )
    return problem_with_export(environment) or _problem_with_sampler(environment)


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.common") is not None
    except ModuleNotFoundError:
        return False


def _problem_with_sampler(environment: Mapping[str, str]) -> str | None:
    name, ratio = environment.get(_SAMPLER, ""), environment.get(_RATIO, "")
    if name and name not in _SAMPLERS:
        return f"{_SAMPLER} is {name!r}: choose one of {', '.join(_SAMPLERS)}"
    if not ratio or not name.endswith("traceidratio"):
        return None
    try:
        is_share = 0 <= float(ratio) <= 1
    except ValueError:
        is_share = False
    if not is_share:
        return f"{_RATIO} is {ratio!r}: give the share of traces to record, from 0 to 1, as in 0.1"
    return None
