"""SendGrid's own client over pooled connections, and what its errors mean for a retry.

The `sendgrid` package opens a connection for every request. Here its HTTP client gets a connection
pool; the rest of the package (addresses, headers, errors) is used as it is.
"""

import io
import threading
import time
import urllib.error
from email.message import Message
from functools import cache
from typing import Any

import urllib3
from python_http_client.client import Client
from python_http_client.exceptions import HTTPError, handle_error
from sendgrid import SendGridAPIClient

from runyard.errors import NonRetriable, RetryAfter

_CONNECTIONS = 8
_LONGEST_ANSWER = 1 << 20
_PIECE = 1 << 16
_DEFAULT_PAUSE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 3600.0
# 4xx that a retry may fix; every other one is final.
_RETRIABLE_4XX = (408, 409, 425, 429)


class _Answer:
    """The interface that the package's Response reads: a status, a body, headers."""

    def __init__(self, answer: urllib3.BaseHTTPResponse, body: bytes) -> None:
        self._answer = answer
        self._body = body

    def getcode(self) -> int:
        return self._answer.status

    def read(self) -> bytes:
        return self._body

    def info(self) -> Any:
        return self._answer.headers


class PooledClient(Client):  # type: ignore[misc]  # the package has no types
    """The package's HTTP client with a connection pool."""

    pool: urllib3.PoolManager

    def _build_client(self, name: str | None = None) -> "PooledClient":
        # The package's own method would build a plain Client for every part of the path.
        client = PooledClient(
            host=self.host,
            version=self._version,
            request_headers=self.request_headers,
            append_slash=self.append_slash,
            timeout=self.timeout,
            url_path=[*self._url_path, name] if name else self._url_path,
        )
        client.pool = self.pool
        return client

    def _make_request(self, opener: Any, request: Any, timeout: float | None = None) -> Any:
        del opener
        answer = self.pool.request(
            request.get_method(),
            request.full_url,
            body=request.data,
            headers=dict(request.header_items()),
            timeout=timeout or self.timeout,
            retries=False,
            preload_content=False,
        )
        body = _body(answer, timeout or self.timeout)
        if answer.status >= 400:
            headers = Message()
            for name, value in answer.headers.items():
                headers[name] = value
            error = urllib.error.HTTPError(
                request.full_url, answer.status, answer.reason or "", headers, io.BytesIO(body)
            )
            raise handle_error(error)
        return _Answer(answer, body)


def _body(answer: urllib3.BaseHTTPResponse, seconds: float) -> bytes:
    """The body of an answer; raises ConnectionError for one that is too long or takes too long."""
    until, body = time.monotonic() + seconds, b""
    try:
        while piece := answer.read1(_PIECE, decode_content=True):
            body += piece
            if len(body) > _LONGEST_ANSWER or time.monotonic() > until:
                raise ConnectionError("SendGrid's answer does not end")
    except BaseException:
        answer.close()
        raise
    answer.release_conn()
    return body


class SendGridAccount:
    """One API key at one host, shared by all threads, so that they share its rate limit."""

    def __init__(self, api_key: str, host: str, timeout: float) -> None:
        package = SendGridAPIClient(api_key=api_key, host=host)
        client = PooledClient(
            host=host, request_headers=package.client.request_headers, version=3, timeout=timeout
        )
        client.pool = urllib3.PoolManager(maxsize=_CONNECTIONS, block=True)
        package.client = client
        self._package = package
        self._lock = threading.Lock()
        self._resume_at = 0.0

    @staticmethod
    @cache
    def get(api_key: str, host: str, timeout: float) -> "SendGridAccount":
        """The account of this key and host, one for each process; `timeout` is in seconds."""
        return SendGridAccount(api_key, host, timeout)

    def send(self, body: dict[str, Any]) -> str:
        """`POST /v3/mail/send`; return the X-Message-Id.

        Raises `NonRetriable`, `RetryAfter`, or an error that a retry may fix.
        """
        wait = self._resume_at - time.time()
        if wait > 0:
            raise RetryAfter(
                f"SendGrid's rate limit is used up; {wait:.0f} s until it is full again", wait
            )
        try:
            answer = self._package.client.mail.send.post(request_body=body)
        except HTTPError as error:
            raise self._meaning(error) from None
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"SendGrid does not answer: {type(error).__name__}") from None
        return str(answer.headers.get("X-Message-Id") or "")

    def _meaning(self, error: HTTPError) -> Exception:
        text = f"SendGrid answered {error.status_code}: {_messages(error)}"
        if error.status_code == 429:
            seconds = self._pause(error)
            return RetryAfter(text, seconds)
        if 400 <= error.status_code < 500 and error.status_code not in _RETRIABLE_4XX:
            return NonRetriable(text)
        return ConnectionError(text)

    def _pause(self, error: HTTPError) -> float:
        """Seconds until the limit resets, by X-RateLimit-Reset (epoch seconds)."""
        try:
            seconds = float(error.headers.get("X-RateLimit-Reset")) - time.time()
        except (TypeError, ValueError):
            seconds = _DEFAULT_PAUSE_SECONDS
        seconds = min(max(seconds, 0.5), _LONGEST_PAUSE_SECONDS)
        with self._lock:
            self._resume_at = max(self._resume_at, time.time() + seconds)
        return seconds


def _messages(error: HTTPError) -> str:
    """The messages of an error body, with their fields; truncated, because they are stored."""
    try:
        problems = error.to_dict["errors"]
        text = "; ".join(map(_problem_text, problems))
    except (ValueError, KeyError, TypeError, AttributeError):
        text = str(error.reason)
    return text[:500]


def _problem_text(problem: dict[str, Any]) -> str:
    field = problem.get("field")
    return f"{problem.get('message')} ({field})" if field else str(problem.get("message"))
