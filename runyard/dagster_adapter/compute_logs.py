"""What ops print, for the Dagster UI: kept in the database, so every host's UI shows it.

Dagster's own managers also copy it to the terminal, for which they start four processes per run. A
warm worker executes a whole run in a fraction of the time that takes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self, cast

from typing_extensions import override

from runyard.dagster_adapter.internals import (
    CapturedLogContext,
    CapturedLogData,
    CapturedLogSubscription,
    CloudStorageComputeLogManager,
    ComputeIOType,
    ConfigurableClass,
    ConfigurableClassData,
    LocalComputeLogManager,
)
from runyard.dagster_adapter.output_pages import OutputPages, Subscription
from runyard.engine import output_capture, run_output
from runyard.engine.run_output import ERR, OUT
from runyard.settings import settings
from runyard.store.data_folder import make_folder

_STREAMS = {ComputeIOType.STDOUT: OUT, ComputeIOType.STDERR: ERR}
_DOWNLOAD_SECONDS = 3600.0


class WarmComputeLogManager(CloudStorageComputeLogManager[Any], ConfigurableClass):
    """Keeps a run's standard output and error in the database."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._inst_data = inst_data
        self._downloads = LocalComputeLogManager(str(settings().data / "downloads"))
        self._pages = OutputPages()

    @property
    @override
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    @override
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    @override
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        return cls(inst_data=inst_data)

    @contextmanager
    @override
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        with output_capture.capturing(log_key):
            yield CapturedLogContext(log_key)

    @contextmanager
    @override
    def open_log_stream(
        self, log_key: Sequence[str], io_type: ComputeIOType
    ) -> Iterator[IO[Any] | None]:
        with output_capture.stream_of(log_key, _STREAMS[io_type]) as stream:
            yield stream

    @override
    def is_capture_complete(self, log_key: Sequence[str]) -> bool:
        """Whether the run has ended, or there is none; its output is kept before it ends."""
        run = self._instance.get_run_by_id(log_key[0])
        return run is None or run.is_finished

    @override
    def get_log_data(
        self, log_key: Sequence[str], cursor: str | None = None, max_bytes: int | None = None
    ) -> CapturedLogData:
        out, err = self.parse_cursor(cursor)
        printed = run_output.read(log_key, out, err, most=max_bytes)
        stdout, stderr = (printed.get(stream, b"") for stream in (OUT, ERR))
        return CapturedLogData(
            log_key,
            stdout or None,
            stderr or None,
            self.build_cursor(out + len(stdout), err + len(stderr)),
        )

    @override
    def get_log_data_for_type(
        self,
        log_key: Sequence[str],
        io_type: ComputeIOType,
        offset: int,
        max_bytes: int | None,
    ) -> tuple[bytes | None, int]:
        stream = _STREAMS[io_type]
        printed = run_output.read(log_key, offset, offset, streams=[stream], most=max_bytes).get(
            stream, b""
        )
        return printed or None, offset + len(printed)

    @override
    def get_log_keys_for_log_key_prefix(
        self, log_key_prefix: Sequence[str], io_type: ComputeIOType
    ) -> Sequence[list[str]]:
        keys = run_output.keys_below(log_key_prefix, _STREAMS[io_type])
        return [list(key) for key in keys]

    @override
    def delete_logs(
        self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None
    ) -> None:
        if log_key:
            run_output.delete(log_key)
        elif prefix:
            run_output.delete_below([prefix])
        else:
            raise ValueError("delete_logs needs a log_key or a prefix")

    @override
    def subscribe(
        self, log_key: Sequence[str], cursor: str | None = None
    ) -> CapturedLogSubscription:
        return self._pages.add(Subscription(self, log_key, cursor))

    @override
    def on_unsubscribe(self, subscription: CapturedLogSubscription) -> None:
        self._pages.remove(cast(Subscription, subscription))

    # A download in the UI is a file of the web process's host, written when it is asked for.

    @property
    @override
    def local_manager(self) -> LocalComputeLogManager:
        return self._downloads

    @override
    def has_local_file(self, log_key: Sequence[str], io_type: ComputeIOType) -> bool:
        return False  # it may have grown

    @override
    def cloud_storage_has_logs(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> bool:
        return run_output.has_some(log_key, _STREAMS[io_type])

    @override
    def download_from_cloud_storage(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        stream = _STREAMS[io_type]
        path = Path(self._downloads.get_captured_local_path(log_key, stream))
        _delete_old(settings().data / "downloads")
        make_folder(path.parent)
        with path.open("wb") as file:
            file.writelines(run_output.read_pieces(log_key, stream))

    @override
    def download_url_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return str(self._downloads.get_captured_log_download_url(log_key, io_type))

    @override
    def display_path_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return "the table runyard.run_output"

    @property
    @override
    def upload_interval(self) -> None:
        return None

    @override
    def upload_to_cloud_storage(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        raise NotImplementedError("output is kept while it is captured")


def _delete_old(folder: Path) -> None:
    """Delete files and folders that were written more than an hour ago."""
    before = time.time() - _DOWNLOAD_SECONDS
    for path in sorted(folder.rglob("*"), reverse=True):
        with suppress(OSError):  # a folder that is not empty, or another download was faster
            if path.stat().st_mtime < before:
                path.rmdir() if path.is_dir() else path.unlink()
