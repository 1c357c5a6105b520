"""A link from every page of the Dagster UI to the dev page.

The Dagster UI is one HTML page that its own script fills in. The link stands in it beside the
element that the script takes, and needs no script: Dagster's routes, its Content-Security-Policy
and its nonces stay as they are.
"""

from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The routes of the Dagster UI that lead to its one page.
PAGES = ("/", "/{path:path}")
_END = b"</body>"
# A tab at the left edge, which is narrower than the margin of the navigation: it covers nothing,
# whether that is open, hidden or, in a narrow window, above the page.
_STYLE = (
    "position:fixed;left:0;top:50%;z-index:15;writing-mode:vertical-rl;"
    "transform:translateY(-50%) rotate(180deg);padding:10px 0;border-radius:6px 0 0 6px;"
    "font:500 11px/16px Geist,Inter,system-ui,sans-serif;text-decoration:none;"
    "color:#fff;background:#4f43dd"
)
_TITLE = "The dev page of Runyard: events, invocations, functions"
_LINK = f'<a id="runyard" href="/dev" title="{_TITLE}" style="{_STYLE}">Events</a>'.encode()


def link_pages(routes: Sequence[BaseRoute]) -> None:
    """Let the Dagster UI's page, among these routes of its application, carry the link."""
    for route in routes:
        if isinstance(route, Route) and route.path in PAGES:
            route.app = _WithLink(route.app)


class _WithLink:
    """Adds the link at the end of an HTML page; any other response passes as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond as the application does, with the link."""
        start: Message | None = None
        body = b""

        async def send_linked(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
            elif message["type"] == "http.response.body" and start is not None:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await send(_with_length(start, body))
                    await send({"type": "http.response.body", "body": _linked(body)})
            else:
                await send(message)

        await self._app(scope, receive, send_linked)


def _is_html(start: Message) -> bool:
    headers = MutableHeaders(raw=list(start["headers"]))
    return "content-encoding" not in headers and headers.get("content-type", "").startswith(
        "text/html"
    )


def _linked(body: bytes) -> bytes:
    before, end, after = body.rpartition(_END)
    return before + _LINK + end + after if end else body


def _with_length(start: Message, body: bytes) -> Message:
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["content-length"] = str(len(_linked(body)))
    return {**start, "headers": headers.raw}
