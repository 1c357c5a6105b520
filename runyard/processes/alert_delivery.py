"""Delivers alerts: posts them to webhooks, and mails them through the project's mailer.

The addresses are those of whoever runs Runyard, so they may lead into the private network. A
webhook's address is a secret: errors name its host alone.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from runyard.errors import RunyardError
from runyard.settings import settings
from runyard.text.request_errors import why_no_answer

SECONDS = 5.0
MAIL_SECONDS = 30.0
# A webhook that answers within this time, which nobody waits for, was told all the same.
LATE_SECONDS = 60.0
_MAIL = "mailto:"
_left_alone: dict[str, Future[None]] = {}


class AlertNotSent(RunyardError):
    """Seen in the daemon's log, and by whoever runs `runyard alerts test`."""


class StillSending(AlertNotSent):
    """An alert that was not delivered in time, and goes on: `delivery` is done when that ends."""

    def __init__(self, message: str, delivery: Future[None]) -> None:
        super().__init__(message)
        self.delivery = delivery


def name_of(receiver: str) -> str:
    """How a receiver is called in logs: the host of a webhook, or the address of a mail.

    Several webhooks on one host have their places in RUNYARD_ALERTS behind it.
    """
    if receiver.startswith(_MAIL):
        return receiver.removeprefix(_MAIL)
    host = urlsplit(receiver).hostname or "the webhook"
    receivers = settings().alert_receivers
    beside = [each for each in receivers if each != receiver and urlsplit(each).hostname == host]
    return f"{host} ({receivers.index(receiver) + 1})" if beside and receiver in receivers else host


def deliver(receiver: str, subject: str, text: str, body: bytes) -> None:
    """Send an alert to a webhook (the body, JSON) or as a mail (the text); raises `AlertNotSent`.

    A webhook is waited for five seconds in all, and a mail thirty; then `StillSending` is raised.
    Redirects are not followed.
    """
    if receiver.startswith(_MAIL):
        address = receiver.removeprefix(_MAIL)
        _within(MAIL_SECONDS, receiver, lambda: _mail(address, subject, text))
    else:
        _within(SECONDS, receiver, lambda: asyncio.run(_post(receiver, body)))


def _within(seconds: float, receiver: str, send: Callable[[], object]) -> None:
    """Send in a thread, which is left alone after so many seconds; one at a time for a receiver.

    A look-up of a name cannot be interrupted, nor can what the project does to send a mail.
    """
    name = name_of(receiver)
    last = _left_alone.get(receiver)
    if last is not None and not last.done():
        raise AlertNotSent(f"{name} has not answered the last time yet")
    outcome = _in_thread(send)
    if not wait([outcome], seconds).done:
        _left_alone[receiver] = outcome
        raise StillSending(f"{name} did not answer within {seconds:g} seconds", outcome)
    outcome.result()


def _in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Call something in a thread that a process which ends does not wait for."""
    outcome: Future[Any] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="runyard-alert", daemon=True).start()
    return outcome


class _Threads(ThreadPoolExecutor):
    """What an event loop has names looked up in: the end of a process would wait for its own."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _in_thread(partial(fn, *args, **kwargs))


def reach(receiver: str) -> str:
    """See whether a receiver can be sent alerts, without sending one; raises `AlertNotSent`.

    A webhook gets a HEAD and may answer anything. For a mail the project's mailer is looked for.
    Returns what was seen.
    """
    if receiver.startswith(_MAIL):
        address = receiver.removeprefix(_MAIL)
        _mailer(address)
        return f"mails to {address} go out through {settings().mail}"
    _within(SECONDS, receiver, lambda: asyncio.run(_request("HEAD", receiver, None, SECONDS)))
    return f"{name_of(receiver)} answers"


def _mail(address: str, subject: str, text: str) -> None:
    send = _mailer(address)
    try:
        send(address, subject, text)
    except (Exception, SystemExit) as error:
        raise AlertNotSent(f"no mail to {address}: {type(error).__name__}: {error}") from error


def _mailer(address: str) -> Callable[[str, str, str], object]:
    """The project's function that sends a mail."""
    try:
        module = settings().project_module("mail")
    except Exception as error:
        raise AlertNotSent(f"no mail to {address}: {type(error).__name__}: {error}") from error
    send: Callable[[str, str, str], object] | None = getattr(module, "send", None)
    if send is None:
        name = settings().mail
        lacks = f"there is no module {name}" if module is None else f"{name} has no send"
        raise AlertNotSent(
            f"no alert can be mailed to {address}: {lacks}; write a module with a function"
            " send(to, subject, text), and name it in RUNYARD_MAIL"
        )
    return send


async def _post(url: str, body: bytes) -> None:
    status = await _request("POST", url, body, LATE_SECONDS)
    if not 200 <= status < 300:
        raise AlertNotSent(f"{name_of(url)} answered {status}: check the address of the webhook")


async def _request(method: str, url: str, body: bytes | None, seconds: float) -> int:
    """Send a request to a webhook; return the status of its answer."""
    host = name_of(url)
    asyncio.get_running_loop().set_default_executor(_Threads())
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=seconds), trust_env=True
            ) as session,
            session.request(
                method,
                url,
                data=body,
                headers={"Content-Type": "application/json"} if body is not None else None,
                allow_redirects=False,
            ) as answer,
        ):
            return answer.status
    except TimeoutError:
        raise AlertNotSent(
            f"{host} did not answer within {seconds:g} seconds: check its address in RUNYARD_ALERTS"
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise AlertNotSent(
            f"{host} cannot be reached: {why_no_answer(error)}; check its address in"
            " RUNYARD_ALERTS, and that this host may reach it"
        ) from None
