"""Delivers alerts: posts them to webhooks, and mails them through the project's mailer.

The addresses are those of whoever runs Runyard, so they may lead into the private network. A
webhook's address is a secret: errors name its host alone.
"""

import asyncio
import os
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


def _mail(address: str, subject: str, text: str) -> None:
    try:
        module = settings().project_module("mail")
        send: Callable[[str, str, str], object] | None = getattr(module, "send", None)
        if send is not None:
            send(address, subject, text)
            return
    except Exception as error:
        raise AlertNotSent(f"no mail to {address}: {type(error).__name__}: {error}") from error
    raise AlertNotSent(
        f"no alert can be mailed to {address}: write a module with a function"
        " send(to, subject, text), and name it in RUNYARD_MAIL"
    )


def _reason(error: Exception) -> str:
    """Why a webhook cannot be reached, without its address."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the name of the host is unknown"
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not valid"
        case aiohttp.ClientSSLError():
            return "TLS failed"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case aiohttp.ClientConnectorError():
            return "no connection"
        case _:
            return type(error).__name__


async def _post(url: str, body: bytes) -> None:
    host = name_of(url)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=SECONDS), trust_env=True
            ) as session,
            session.post(
                url,
                data=body,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as answer,
        ):
            status = answer.status
    except TimeoutError:
        raise AlertNotSent(f"{host} did not answer within {SECONDS:g} seconds") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise AlertNotSent(f"{host} cannot be reached: {_reason(error)}") from None
    if not 200 <= status < 300:
        raise AlertNotSent(f"{host} answered {status}: check the address of the webhook")
