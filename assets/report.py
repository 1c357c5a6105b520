"""The week as text for the terminal: `runyard report`.

Days that have not been aggregated yet are computed here, without being stored.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from assets.analytics import ROLLUPS, span
from resources.analytics.tables import RollupTables
from runyard import clock
from runyard.cli.terminal import visible

if TYPE_CHECKING:
    import pandas as pd

_SUMS = {
    "events": ("name", ["events", "late"]),
    "functions": ("function", ["invocations", "succeeded", "failed", "open", "attempts"]),
    "mail": ("template", ["mails", "sent", "delivered", "opened", "clicked", "bounced"]),
    "ai": ("model", ["calls", "failed", "prompt_tokens", "output_tokens", "cost"]),
    "media": ("kind", ["assets", "bytes", "variant_bytes", "saved_bytes"]),
    "sync": ("table_name", ["loads", "rows"]),
}
_MOST_LINES = 15


def week() -> str:
    """The last seven days (UTC), today included, each table summed up."""
    today = clock.now().date()
    since = today - timedelta(days=6)
    return "\n\n".join(
        [
            f"{since} to {today} (UTC)",
            *(_section(rollup.name, _frame(rollup.name, since, today)) for rollup in ROLLUPS),
        ]
    )


def _frame(name: str, since: date, today: date) -> "pd.DataFrame":
    import pandas as pd

    tables = RollupTables()
    stored, known = tables.read(name, since, today), tables.days(name)
    rollup = next(rollup for rollup in ROLLUPS if rollup.name == name)
    # Today is always computed again.
    missing = [
        day
        for number in range(7)
        if (day := since + timedelta(days=number)) not in known or day == today
    ]
    stored = stored[~stored["day"].isin(missing)] if len(stored) else stored
    frames = [
        frame for frame in [stored, *(rollup.rows(*span(day)) for day in missing)] if len(frame)
    ]
    return pd.concat(frames, ignore_index=True) if frames else stored


def _section(name: str, frame: "pd.DataFrame") -> str:
    label, sums = _SUMS[name]
    if frame.empty:
        return f"{name}: nothing"
    summed = (
        frame.groupby(label)[sums].sum(numeric_only=False).sort_values(sums[0], ascending=False)
    )
    lines = [
        [label, *sums],
        *(
            [visible(str(index))[:40], *(_number(value) for value in row)]
            for index, row in zip(summed.index, summed.to_numpy(), strict=True)
        ),
    ][: _MOST_LINES + 1]
    more = [f"... and {len(summed) - _MOST_LINES} more"] if len(summed) > _MOST_LINES else []
    return "\n".join([name, *_aligned(lines), *more])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def _number(value: object) -> str:
    number = float(value or 0)  # type: ignore[arg-type]
    return f"{number:,.4f}" if number != int(number) else f"{int(number):,}"
