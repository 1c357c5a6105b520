"""Why a request to another server failed, in words without its address or a secret."""

import os

import aiohttp


def why_no_answer(error: Exception) -> str:
    """Return what went wrong, by an error that aiohttp has raised."""
    match error:
        case TimeoutError():
            return "no answer in time"
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
