"""The broker between daemon and workers: files in the data folder by default, Redis or RabbitMQ by URL.

Kombu's filesystem transport makes a message visible under its final name while it is being written, so that a worker
may take half of it. Ours writes it under another name first; a rename is atomic.
"""

import os
import uuid
from time import monotonic
from typing import Any

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

from runyard.private_folders import make_folder
from runyard.settings import settings

QUEUE = "dagster"
_POLL_SECONDS = 0.02
_SCHEME = "runyardfiles"


class Channel(filesystem.Channel):
    """Kombu's filesystem channel, with messages that appear whole."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # its two bases differ themselves
        name = f"{monotonic() * 1000:016.3f}_{uuid.uuid4()}"
        hidden = os.path.join(self.data_folder_out, f"{name}.writing")
        with open(hidden, "wb") as file:
            file.write(str_to_bytes(dumps(payload)))
        os.rename(hidden, os.path.join(self.data_folder_out, f"{name.replace('.', '-')}.{queue}.msg"))


class Transport(filesystem.Transport):
    """Kombu's filesystem transport with our channel."""

    Channel = Channel


TRANSPORT_ALIASES[_SCHEME] = "runyard.broker:Transport"


def broker_url() -> str:
    """The URL of the broker; the folder of the default one is made."""
    chosen = settings().broker_url
    if chosen is not None:
        return chosen.get_secret_value()
    make_folder(settings().broker_dir / "queue")
    make_folder(settings().broker_dir / "control")
    return f"{_SCHEME}://localhost/"


def celery_settings() -> dict[str, Any]:
    """The settings that launcher and workers share."""
    transport: dict[str, Any] = {"visibility_timeout": 7 * 86_400}
    if settings().broker_url is None:
        folder = settings().broker_dir
        transport = {
            "data_folder_in": str(folder / "queue"), "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"), "polling_interval": _POLL_SECONDS,
        }  # fmt: skip
    return {
        "broker_transport_options": transport,
        "broker_connection_retry_on_startup": True,
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # A worker takes no message that it cannot start at once: others, or another host, may be idle.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def make_app() -> Celery:
    """The Celery application, without tasks."""
    return Celery("runyard", broker=broker_url(), backend="disabled://", config_source=celery_settings())
