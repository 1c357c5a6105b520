"""The daily report on the system's health: what is overdue, what is large, what is unused."""

from collections.abc import Sequence
from typing import Any

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, asset

from runyard.dagster_adapter import run_retention
from runyard.engine import retention


@asset(group_name="maintenance", kinds={"postgres"})
def system_report(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """Overdue invocations, the size of every table, broken and unused indexes, and stuck runs."""
    overdue, tables, indexes = (
        retention.health(what) for what in ("overdue", "table_health", "index_health")
    )
    stuck = run_retention.stuck_runs(context.instance)
    return MaterializeResult(
        metadata={
            "overdue invocations": sum(row["invocations"] for row in overdue),
            "stuck runs": len(stuck),
            "bytes": sum(row["bytes"] for row in tables),
            "overdue": MetadataValue.md(
                _table(overdue, ("function", "status", "invocations", "since"))
            ),
            "runs without an end": MetadataValue.md(
                "\n".join(f"- {run_id}" for run_id in stuck) or "none"
            ),
            "tables": MetadataValue.md(
                _table(tables[:30], ("name", "bytes", "live", "dead", "vacuumed"))
            ),
            "indexes": MetadataValue.md(_table(indexes, ("name", "bytes", "scans", "valid"))),
        }
    )


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    if not rows:
        return "none"
    lines = [" | ".join(str(row[column]) for column in columns) for row in rows]
    return "\n".join(
        f"| {line} |" for line in [" | ".join(columns), " | ".join("---" for _ in columns), *lines]
    )
