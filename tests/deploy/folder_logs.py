"""A log manager as the ones for object stores are, with a folder for the store."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from dagster._core.storage.cloud_storage_compute_log_manager import (
    TruncatingCloudStorageComputeLogManager,
)
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._serdes import ConfigurableClass, ConfigurableClassData


class FolderComputeLogManager(TruncatingCloudStorageComputeLogManager[Any], ConfigurableClass):
    """Uploads what it captures to a folder."""

    def __init__(
        self, local: str, store: str, inst_data: ConfigurableClassData | None = None
    ) -> None:
        super().__init__()
        self._local = LocalComputeLogManager(local)
        self._store = Path(store)
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"local": str, "store": str}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "FolderComputeLogManager":
        return cls(inst_data=inst_data, **config_value)

    @property
    def local_manager(self) -> LocalComputeLogManager:
        return self._local

    @property
    def upload_interval(self) -> int:
        return 1

    def _object(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool) -> Path:
        return self._store / f"{'-'.join(log_key)}.{io_type.value}{'.partial' * partial}"

    def cloud_storage_has_logs(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> bool:
        return self._object(log_key, io_type, partial).exists()

    def _upload_file_obj(
        self, data: IO[bytes], log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        self._object(log_key, io_type, partial).write_bytes(data.read())

    def download_from_cloud_storage(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        extension = "out" if io_type == ComputeIOType.STDOUT else "err"
        path = Path(self._local.get_captured_local_path(log_key, extension, partial=partial))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._object(log_key, io_type, partial), path)

    def download_url_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str | None:
        return None

    def display_path_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return str(self._object(log_key, io_type, partial=False))

    def delete_logs(
        self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None
    ) -> None:
        self._local.delete_logs(log_key, prefix)

    def get_log_keys_for_log_key_prefix(
        self, log_key_prefix: Sequence[str], io_type: ComputeIOType
    ) -> Sequence[list[str]]:
        return self._local.get_log_keys_for_log_key_prefix(log_key_prefix, io_type)
