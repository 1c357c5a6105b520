"""Tables and plots in the metadata of assets, for the Dagster UI."""

import base64
import io
from typing import TYPE_CHECKING

from dagster import MarkdownMetadataValue, MetadataValue

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 20


def table(frame: "pd.DataFrame") -> MarkdownMetadataValue:
    """The first rows as a table."""
    shown = frame.head(_MOST_ROWS)
    lines = [
        list(map(str, shown.columns)),
        ["---"] * len(shown.columns),
        *([_cell(value) for value in row] for row in shown.itertuples(index=False)),
    ]
    more = f"\n\n... and {len(frame) - _MOST_ROWS} more" if len(frame) > _MOST_ROWS else ""
    return MetadataValue.md(
        "\n".join(f"| {' | '.join(line)} |" for line in lines) + more
        if len(frame)
        else "nothing happened"
    )


def bars(frame: "pd.DataFrame", label: str, value: str) -> MarkdownMetadataValue:
    """The largest values as a bar chart (PNG)."""
    import pandas as pd
    from matplotlib.figure import Figure

    largest = (
        frame.groupby(label)[value].sum().astype(float).nlargest(12).iloc[::-1]
        if len(frame)
        else pd.Series(dtype=float)
    )
    figure = Figure(figsize=(7, 0.5 + 0.32 * max(1, len(largest))), layout="constrained")
    axes = figure.subplots()
    axes.barh([str(name)[:40] for name in largest.index], largest.to_numpy(), color="#4f43dd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(value.replace("_", " "))
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=90)
    return MetadataValue.md(
        f"![{value} by {label}](data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()})"
    )


def _cell(value: object) -> str:
    return (
        ""
        if value is None or value != value
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value).replace("|", "\\|")[:80]
    )
