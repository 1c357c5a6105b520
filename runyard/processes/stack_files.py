"""The files of a running stack in the data folder: its sockets, and its Dagster workspace."""

import socket
import time
from contextlib import suppress
from pathlib import Path

from runyard.settings import Settings, settings
from runyard.store.data_folder import data_folder
from runyard.store.private_folders import delete_short_folder, fits_a_socket, short_folder

_SOCKETS = "sockets"
_PROBE_SECONDS = 3.0


def socket_path(name: str, of: Settings | None = None) -> Path:
    """The path of a Unix socket of the stack.

    It is in the data folder, or in a private temporary folder when that path is too long for a
    socket. Raises `RunyardError` when the data folder belongs to another user, who could listen on
    the socket instead.
    """
    data = data_folder(of)
    path = data / f"{name}.sock"
    return path if fits_a_socket(path) else short_folder(data / _SOCKETS) / path.name


def delete_sockets(of: Settings | None = None) -> None:
    """Delete the temporary folder of the sockets, if there is one, after the stack has ended."""
    delete_short_folder((of or settings()).data / _SOCKETS)


def stack_workspace(of: Settings | None = None) -> Path:
    """The workspace file of the stack: daemon and web share the code server on its socket."""
    return (of or settings()).data / "workspace.yaml"


def code_server_answers() -> bool:
    """Whether the code server of the stack accepts connections."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_SECONDS)
        probe.connect(str(socket_path("code")))
        return True
    return False


def wait_for_code_server(seconds: float = 60.0) -> None:
    """Wait until the code server of the stack accepts connections; give up after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not code_server_answers():
        time.sleep(0.05)
