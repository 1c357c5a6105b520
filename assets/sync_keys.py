"""The asset keys of a source's tables: the schema and the table that they are loaded into."""

from dagster import AssetKey, AssetSpec
from dagster_dlt import DagsterDltTranslator
from dagster_dlt.translator import DltResourceTranslatorData

from resources.sync.source_config import Source


class TableKeys(DagsterDltTranslator):
    """Gives the tables of one source their asset keys."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def get_asset_spec(self, data: DltResourceTranslatorData) -> AssetSpec:
        """The asset of a table; it depends on nothing."""
        return (
            super()
            .get_asset_spec(data)
            .replace_attributes(key=AssetKey([self._source.dataset, data.resource.name]), deps=[])
        )
