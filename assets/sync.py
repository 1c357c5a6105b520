"""The tables of every source as Dagster assets, by dagster-dlt, with a freshness check.

Materialize them in the UI, or send `sync/requested`.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    MaterializeResult,
    build_last_update_freshness_checks,
)

from resources.sync.source_config import Source, sources
from resources.sync.tables import Syncs


def _of(source: Source) -> AssetsDefinition:
    # dlt takes seconds to import, and is not needed while no source is switched on.
    from dagster_dlt import dlt_assets

    from assets.sync_keys import TableKeys
    from resources.sync.loader import declared_pipeline, make_source

    @dlt_assets(
        dlt_source=make_source(source),
        dlt_pipeline=declared_pipeline(source),
        name=source.dataset,
        group_name="sync",
        dagster_dlt_translator=TableKeys(source),
    )
    def tables(context: AssetExecutionContext, syncs: Syncs) -> Iterator[MaterializeResult[Any]]:
        loaded = syncs.load(source.name)
        for key in sorted(context.selected_asset_keys):
            metadata: dict[str, Any] = {
                "dagster/row_count": loaded.rows.get(key.path[-1], 0),
                "changes": "; ".join(loaded.changes) or "none",
                **({"files": "; ".join(loaded.notes)} if loaded.notes else {}),
            }
            yield MaterializeResult(asset_key=key, metadata=metadata)

    return tables


# Only sources that are switched on: other assets could never be materialized.
_on = [source for source in sources().values() if source.address() is not None]
_assets = {source.name: _of(source) for source in _on}
assets = list(_assets.values())
checks = [
    check
    for source in _on
    if source.fresh_within_hours is not None
    for check in build_last_update_freshness_checks(
        assets=[_assets[source.name]], lower_bound_delta=timedelta(hours=source.fresh_within_hours)
    )
]
