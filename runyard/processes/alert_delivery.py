"""Delivers alerts: posts them to webhooks, and mails them through the project's mailer.

The addresses are those of whoever runs Runyard, so they may lead into the private network. A
webhook's address is a secret: errors name its host alone.
"""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp

from runyard.errors import RunyardError
from runyard.settings import settings

SECONDS = 5.0
_MAIL = "mailto:"


class AlertNotSent(RunyardError):
    """Seen in the daemon's log, and by whoever runs `runyard alerts test`."""


def name_of(receiver: str) -> str:
    """How a receiver is called in logs: the host of a webhook, or the address of a mail."""
    if receiver.startswith(_MAIL):
        return receiver.removeprefix(_MAIL)
    return urlsplit(receiver).hostname or "the webhook"


def deliver(receiver: str, subject: str, text: str, body: bytes) -> None:
    """Send an alert to a webhook (the body, JSON) or as a mail (the text); raises `AlertNotSent`.

    A webhook is given five seconds in all. Redirects are not followed.
    """
    if receiver.startswith(_MAIL):
        _mail(receiver.removeprefix(_MAIL), subject, text)
    else:
        asyncio.run(_post(receiver, body))


def reach(receiver: str) -> str:
    """See whether a receiver can be sent alerts, without sending one; raises `AlertNotSent`.

    A webhook gets a HEAD and may answer anything. For a mail the project's mailer is looked for.
    Returns what was seen.
    """
    if receiver.startswith(_MAIL):
        address = receiver.removeprefix(_MAIL)
        _mailer(address)
        return f"mails to {address} go out through {settings().mail}"
    asyncio.run(_request("HEAD", receiver))
    return f"{name_of(receiver)} answers"


def _mail(address: str, subject: str, text: str) -> None:
    send = _mailer(address)
    try:
        send(address, subject, text)
    except Exception as error:
        raise AlertNotSent(f"no mail to {address}: {type(error).__name__}: {error}") from error


def _mailer(address: str) -> Callable[[str, str, str], object]:
    """The project's function that sends a mail."""
    try:
        module = settings().project_module("mail")
    except Exception as error:
        raise AlertNotSent(f"no mail to {address}: {type(error).__name__}: {error}") from error
    send: Callable[[str, str, str], object] | None = getattr(module, "send", None)
    if send is None:
        raise AlertNotSent(
            f"no alert can be mailed to {address}: write a module with a function"
            " send(to, subject, text), and name it in RUNYARD_MAIL"
        )
    return send


async def _post(url: str, body: bytes) -> None:
    status = await _request("POST", url, body)
    if not 200 <= status < 300:
        raise AlertNotSent(f"{name_of(url)} answered {status}: check the address of the webhook")


async def _request(method: str, url: str, body: bytes | None = None) -> int:
    """Send a request to a webhook; return the status of its answer."""
    host = name_of(url)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=SECONDS), trust_env=True
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
            f"{host} did not answer within {SECONDS:g} seconds: check its address in RUNYARD_ALERTS"
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise AlertNotSent(
            f"{host} cannot be reached ({type(error).__name__}): check its address in"
            " RUNYARD_ALERTS, and that this host may reach it"
        ) from None
