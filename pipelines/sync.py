"""The sync family: `sync/requested` -> load a source's tables -> report materializations."""

from typing import Any

from dagster import AssetKey, AssetMaterialization, OpExecutionContext

from pipelines.events import SyncRequested
from resources.sync.tables import Syncs
from runyard import Item, step


@step(op="load_sources", checkpoint_every=1)
def load(item: Item[SyncRequested], context: OpExecutionContext, syncs: Syncs) -> dict[str, Any]:
    """Load each requested source, and report its tables as materialized assets."""
    data = item.data
    item.progress(0, f"reading {data.source}")
    loaded = syncs.load(data.source, agree=data.agree, preview=data.preview)
    for note in loaded.notes:
        context.log.info(note)
    if loaded.applied:
        for table, rows in loaded.rows.items():
            metadata: dict[str, Any] = {
                "dagster/row_count": rows,
                "changes": "; ".join(loaded.changes) or "none",
                "event": str(item.event.id),
                **({"files": "; ".join(loaded.notes)} if loaded.notes else {}),
            }
            context.log_event(
                AssetMaterialization(AssetKey([f"sync_{data.source}", table]), metadata=metadata)
            )
    return {
        "source": data.source,
        "rows": loaded.rows,
        "changes": loaded.changes,
        "notes": loaded.notes,
        "applied": loaded.applied,
        "seconds": round(loaded.seconds, 3),
    }
