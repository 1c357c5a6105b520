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
    if frame.empty:
        return MetadataValue.md("nothing happened")
    shown = frame.head(_MOST_ROWS)
    lines = [
        list(map(str, shown.columns)),
        ["---"] * len(shown.columns),
        *([_cell(value) for value in row] for row in shown.itertuples(index=False)),
    ]
    more = f"\n\n... and {len(frame) - _MOST_ROWS} more" if len(frame) > _MOST_ROWS else ""
    return MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines) + more)


def bars(frame: "pd.DataFrame", label: str, value: str) -> MarkdownMetadataValue:
    """The largest values as a bar chart (PNG)."""
    import pandas as pd
    from matplotlib.figure import Figure

    largest = pd.Series(dtype=float)
    if len(frame):
        largest = frame.groupby(label)[value].sum().astype(float).nlargest(12).iloc[::-1]
    figure = Figure(figsize=(7, 0.5 + 0.32 * max(1, len(largest))), layout="constrained")
    axes = figure.subplots()
    axes.barh([str(name)[:40] for name in largest.index], largest.to_numpy(), color="#4f43dd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(value.replace("_", " "))
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=90)
    image = base64.b64encode(sink.getvalue()).decode()
    return MetadataValue.md(f"![{value} by {label}](data:image/png;base64,{image})")


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|")[:80]
