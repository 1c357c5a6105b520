"""Daily rollups (UTC) as partitioned assets: events, functions, mail, AI, media, sync.

They are aggregated in SQL, shaped in pandas, and stored as whole days, so an hourly refresh, a late
event and a backfill all end in the same numbers. An event counts for the day on which it happened
(`ts`), an invocation for the day on which it was created.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    Failure,
    MaterializeResult,
    asset,
)

from assets.plots import bars, table
from resources.analytics.tables import RollupTables, family_rows, frame_of
from resources.settings import AnalyticsSettings
from runyard.engine import rollups

if TYPE_CHECKING:
    import pandas as pd

_Check = Callable[[date, "pd.DataFrame", RollupTables], AssetCheckResult]

GROUP = "analytics"
days = DailyPartitionsDefinition(
    start_date=AnalyticsSettings.read().analytics_start.isoformat(), end_offset=1
)

# by email_messages_created_at; the state of a mail is that of its furthest report
_MAIL = """
    SELECT coalesce(template, '(none)') AS template, count(*) AS mails,
        count(*) FILTER (WHERE status NOT IN ('queued', 'failed', 'suppressed')) AS sent,
        count(*) FILTER (WHERE status IN
            ('delivered', 'opened', 'clicked', 'unsubscribed', 'complained')) AS delivered,
        count(*) FILTER (WHERE status IN ('opened', 'clicked')) AS opened,
        count(*) FILTER (WHERE status = 'clicked') AS clicked,
        count(*) FILTER (WHERE status = 'bounced') AS bounced,
        count(*) FILTER (WHERE status = 'complained') AS complained,
        count(*) FILTER (WHERE status IN ('failed', 'dropped')) AS failed,
        count(*) FILTER (WHERE status = 'suppressed') AS suppressed
    FROM app.email_messages WHERE created_at >= %(start)s AND created_at < %(end)s
    GROUP BY 1 ORDER BY 1"""
# by ai_calls_at
_AI = """
    SELECT provider, model, coalesce(user_id, '(none)') AS user_id, count(*) AS calls,
        count(*) FILTER (WHERE status <> 'ok') AS failed,
        sum(prompt_tokens) AS prompt_tokens, sum(output_tokens) AS output_tokens,
        sum(cost)::float8 AS cost,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS seconds_p50,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS seconds_p95
    FROM app.ai_calls WHERE at >= %(start)s AND at < %(end)s
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
# by media_created_at; the saving is the original's bytes less those of its largest variant
_MEDIA = """
    SELECT kind, count(*) AS assets, sum(bytes)::bigint AS bytes,
        sum(variant_bytes)::bigint AS variant_bytes,
        sum(bytes - (
            SELECT max((variant->>'bytes')::bigint)
            FROM jsonb_array_elements(manifest->'variants') AS variant
        ))::bigint AS saved_bytes
    FROM app.media WHERE created_at >= %(start)s AND created_at < %(end)s
    GROUP BY 1 ORDER BY 1"""
# by sync_loads_at
_SYNC = """
    SELECT source, table_name, count(*) AS loads, sum(rows)::bigint AS rows,
        sum(seconds)::float8 AS seconds,
        extract(epoch FROM max(loaded_at) - max(watermark))::float8 AS lag_seconds
    FROM app.sync_loads WHERE loaded_at >= %(start)s AND loaded_at < %(end)s
    GROUP BY 1, 2 ORDER BY 1, 2"""


@dataclass(frozen=True)
class Rollup:
    """A table of the analytics: how its rows for a period are computed, and what it plots."""

    name: str
    rows: "Callable[[datetime, datetime], pd.DataFrame]"
    label: str
    value: str
    description: str


def _events(start: datetime, end: datetime) -> "pd.DataFrame":
    return frame_of(rollups.events(start, end), ["name", "source", "events", "late"])


def _functions(start: datetime, end: datetime) -> "pd.DataFrame":
    outcomes = ["succeeded", "failed", "cancelled", "skipped", "open"]
    counts = ["function", "invocations", *outcomes, "attempts"]
    frame = frame_of(rollups.functions(start, end), [*counts, "wait", "run"])
    ended = frame["succeeded"] + frame["failed"]
    frame["success_rate"] = (frame["succeeded"] / ended.where(ended > 0)).astype(float)
    for kind in ("wait", "run"):
        for place, name in enumerate(("p50", "p95", "p99")):
            frame[f"{kind}_{name}"] = [row[place] if row else None for row in frame[kind]]
    return frame.drop(columns=["wait", "run"])


ROLLUPS = [
    Rollup(
        "events",
        _events,
        "name",
        "events",
        "Events by name and source; `late` counts those that arrived after their day.",
    ),
    Rollup(
        "functions",
        _functions,
        "function",
        "invocations",
        "Functions: outcomes, success rate, attempts, seconds to the start (wait) and end (run).",
    ),
    Rollup(
        "mail",
        lambda start, end: family_rows(_MAIL, start, end),
        "template",
        "mails",
        "Outcomes of mails, by template.",
    ),
    Rollup(
        "ai",
        lambda start, end: family_rows(_AI, start, end),
        "model",
        "output_tokens",
        "Text providers: calls, tokens, cost in US dollars, seconds, by model and user.",
    ),
    Rollup(
        "media",
        lambda start, end: family_rows(_MEDIA, start, end),
        "kind",
        "saved_bytes",
        "Images and videos: bytes, and what their largest variants save.",
    ),
    Rollup(
        "sync",
        lambda start, end: family_rows(_SYNC, start, end),
        "table_name",
        "rows",
        "Rows loaded from other systems, and how far behind they were.",
    ),
]


def span(day: date) -> tuple[datetime, datetime]:
    """A day's beginning and end, in UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


def _check_kept(day: date, known: set[date]) -> None:
    """Refuse to aggregate a day again of which part has been deleted."""
    since = rollups.retained_since()
    if since is not None and span(day)[0] < since and day in known:
        raise Failure(
            f"part of {day} has been deleted (RUNYARD_RETENTION): its earlier numbers are kept",
            allow_retries=False,
        )


def _asset(rollup: Rollup, checks: dict[str, _Check]) -> AssetsDefinition:
    @asset(
        name=rollup.name,
        key_prefix=GROUP,
        group_name=GROUP,
        partitions_def=days,
        description=rollup.description,
        kinds={"postgres", "pandas"},
        check_specs=[AssetCheckSpec(name, asset=[GROUP, rollup.name]) for name in checks],
    )
    def rollup_asset(
        context: AssetExecutionContext, rollup_tables: RollupTables
    ) -> MaterializeResult:  # type: ignore[type-arg]  # Dagster reads the annotation
        day = date.fromisoformat(context.partition_key)
        _check_kept(day, rollup_tables.days(rollup.name))
        frame = rollup.rows(*span(day))
        file = rollup_tables.replace(rollup.name, day, frame)
        return MaterializeResult(
            metadata={
                "dagster/row_count": len(frame),
                "file": file,
                "table": table(frame),
                "plot": bars(frame, rollup.label, rollup.value),
            },
            check_results=[check(day, frame, rollup_tables) for check in checks.values()],
        )

    return rollup_asset


def _totals_agree(day: date, frame: "pd.DataFrame", _: RollupTables) -> AssetCheckResult:
    there, counted = rollups.events_total(*span(day)), int(frame["events"].sum())
    # Events that arrived during the aggregation are in the next one.
    return AssetCheckResult(
        check_name="totals_agree",
        passed=counted == there or (there > counted and _open(day)),
        metadata={"counted": counted, "there": there},
    )


def _no_day_is_missing(day: date, _: "pd.DataFrame", tables: RollupTables) -> AssetCheckResult:
    first = rollups.first_event()
    known = tables.days("events")
    begin = max(first.date(), days.start.date()) if first else day
    missing = sorted(
        str(earlier)
        for number in range((day - begin).days + 1)
        if (earlier := begin + timedelta(days=number)) not in known
    )
    return AssetCheckResult(
        check_name="no_day_is_missing",
        passed=not missing,
        metadata={"missing": ", ".join(missing[:30]) or "none"},
    )


def _success_is_high(_: date, frame: "pd.DataFrame", __: RollupTables) -> AssetCheckResult:
    """Check success rates; functions with few finished invocations are only listed."""
    settings = AnalyticsSettings.read()
    least, fewest = settings.analytics_least_success, settings.analytics_fewest_ends
    ended = frame["succeeded"] + frame["failed"]
    below = frame["success_rate"] < least
    judged = _named(frame[below & (ended >= fewest)])
    metadata: dict[str, Any] = {
        "least": least,
        "fewest ends": fewest,
        "below": judged,
        "below, of too few ends": _named(frame[below & (ended < fewest)]),
    }
    return AssetCheckResult(
        check_name="success_is_high", passed=judged == "none", metadata=metadata
    )


def _named(functions: "pd.DataFrame") -> str:
    """Functions with their success rates and finished invocations."""
    shown = [
        f"{row.function} {row.success_rate:.0%} of {row.succeeded + row.failed}"
        for row in functions.itertuples()
    ]
    return ", ".join(shown) or "none"


def _waits_are_short(_: date, frame: "pd.DataFrame", __: RollupTables) -> AssetCheckResult:
    most = AnalyticsSettings.read().analytics_longest_wait
    bad = frame[frame["wait_p95"].astype(float) > most]
    shown = ", ".join(f"{row.function} {row.wait_p95:.0f} s" for row in bad.itertuples())
    return AssetCheckResult(
        check_name="waits_are_short",
        passed=bad.empty,
        metadata={"most, in seconds": most, "above": shown or "none"},
    )


def _open(day: date) -> bool:
    return span(day)[1] > datetime.now(UTC)


_CHECKS: dict[str, dict[str, _Check]] = {
    "events": {"totals_agree": _totals_agree, "no_day_is_missing": _no_day_is_missing},
    "functions": {"success_is_high": _success_is_high, "waits_are_short": _waits_are_short},
}
assets = [_asset(rollup, _CHECKS.get(rollup.name, {})) for rollup in ROLLUPS]
