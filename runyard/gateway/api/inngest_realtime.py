"""Realtime: applications publish messages to topics of channels, and pages subscribe to them.

Who has the signing key publishes, and hands out tokens; who has a token reads its topics, as
server-sent events or over a WebSocket, until the token expires. Messages reach who is subscribed at
that moment; they are not kept.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, RootModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from runyard.apps.realtime_tokens import (
    InvalidToken,
    Subscription,
    subscription_of,
    token_for,
)
from runyard.events import new_ulid
from runyard.gateway.api.inngest_apps import BEARER, admits, no_endpoints
from runyard.gateway.http.body import parse_json
from runyard.gateway.http.broadcaster import Broadcaster, Subscriber, TooSlow
from runyard.gateway.http.endpoint import NO_OP, Body, Call, Endpoint, Query, event_stream
from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.guard import media_type
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.storable import storable

SOCKET = "/v1/realtime/connect"
_MAX_MESSAGE_BYTES = 256 * 1024
_MAX_TOPICS = 100
_KEEPALIVE_SECONDS = 15.0
_STREAM = "text/stream"
# Codes with which a WebSocket is closed (RFC 6455, 7.4).
_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013
_Name = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^\x00]+$")]


class PublishQuery(Query):
    """Where a message goes: to topics of a channel. `run_id` is the run that publishes it."""

    channel: _Name
    topic: Annotated[list[_Name], Field(min_length=1, max_length=_MAX_TOPICS)]
    run_id: Annotated[str, Field(max_length=100)] | None = None


class TeeQuery(Query):
    """The channel of a stream."""

    channel: str | None = None


class TokenQuery(Query):
    """A token for topics."""

    token: str


class TopicBody(Body):
    """A topic of a channel."""

    channel: _Name
    name: _Name
    kind: str = "run"


class TokenRequest(RootModel[Annotated[list[TopicBody], Field(min_length=1, max_length=100)]]):
    """The topics that a token is to be for."""


class Token(BaseModel):
    """A token, with which these topics can be read for a quarter of an hour."""

    jwt: str


class Published(BaseModel):
    """A message is published."""

    ok: bool = True


async def publish(call: Call) -> Published:
    """Publish a message to topics of a channel."""
    query: PublishQuery = call.query
    messages = [
        (topic, message)
        for topic in dict.fromkeys(query.topic)
        for message in _messages(query, topic, call.raw, media_type(call.request.headers))
    ]
    await run_in_threadpool(_publish, query.channel, messages)
    return Published()


def _publish(channel: str, messages: Sequence[tuple[str, str]]) -> None:
    with database.connection() as connection:
        fetch_all(
            connection,
            "publish",
            channel=channel,
            topics=[topic for topic, _ in messages],
            messages=[message for _, message in messages],
        )


def _messages(query: PublishQuery, topic: str, body: bytes, declared: str) -> list[str]:
    """The messages of a body as subscribers get them: a stream has a beginning and an end."""
    common = {
        "channel": query.channel,
        "topic": topic,
        "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        **({} if query.run_id is None else {"run_id": query.run_id}),
    }
    if declared != _STREAM:
        return [json.dumps({**common, "kind": "data", "data": _value(body)})]
    stream = new_ulid()
    chunk = {"kind": "chunk", "data": body.decode("utf-8", "replace"), "stream_id": stream}
    return [
        json.dumps({**common, "kind": "datastream-start", "data": stream}),
        *([json.dumps({**common, **chunk})] if body else []),
        json.dumps({**common, "kind": "datastream-end", "data": stream}),
    ]


def _value(body: bytes) -> Any:
    """A body as JSON, or else as text: the SDK for JavaScript sends text as it is."""
    try:
        return parse_json(body)
    except HttpError as error:
        if error.code != "invalid_json":
            raise
        return storable(body.decode("utf-8", "replace"))


async def token(call: Call) -> Token:
    """A token with which topics can be subscribed to."""
    request: TokenRequest = call.body
    return Token(jwt=token_for({(topic.channel, topic.name) for topic in request.root}))


async def events(call: Call) -> Response:
    """The messages of the topics of a token, as server-sent events."""
    query: TokenQuery = call.query
    try:
        subscription = subscription_of(query.token)
    except InvalidToken as error:
        raise HttpError(401, "unauthorized", str(error)) from None
    broadcaster = call.services.broadcaster
    broadcaster.check_capacity()
    return event_stream(_event_stream(broadcaster, subscription))


async def _event_stream(
    broadcaster: Broadcaster, subscription: Subscription
) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    with suppress(TooSlow):
        async with broadcaster.subscribe(subscription.topics) as subscriber:
            yield b": subscribed\n\n"
            while (left := subscription.until - time.time()) > 0:
                message = await subscriber.next(min(left, _KEEPALIVE_SECONDS))
                yield b": still here\n\n" if message is None else b"data: %s\n\n" % message.encode()


async def connect(socket: WebSocket) -> None:
    """Send the messages of the topics of a token over a WebSocket, until the token expires."""
    broadcaster: Broadcaster = socket.app.state.services.broadcaster
    try:
        subscription = subscription_of(socket.query_params.get("token", ""))
        broadcaster.check_capacity()
    except (InvalidToken, HttpError):
        await socket.close(_POLICY_VIOLATION)
        return
    async with broadcaster.subscribe(subscription.topics) as subscriber:
        await socket.accept()
        sending = asyncio.create_task(_send(socket, subscriber, subscription.until))
        reading = asyncio.create_task(_read(socket))
        await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, reading):
            task.cancel()
        await asyncio.gather(sending, reading, return_exceptions=True)


async def _send(socket: WebSocket, subscriber: Subscriber, until: float) -> None:
    with suppress(WebSocketDisconnect):
        try:
            while (left := until - time.time()) > 0:
                message = await subscriber.next(left)
                if message is not None:
                    await socket.send_text(message)
        except TooSlow as error:
            await socket.close(_TRY_AGAIN_LATER, str(error))
        else:
            await socket.close(_POLICY_VIOLATION, "the token has expired")


async def _read(socket: WebSocket) -> None:
    """Wait until the client has gone; what it says means nothing."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


_GROUP = "Applications"
ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/realtime/publish",
        publish,
        _GROUP,
        "Publish a message to topics of a channel",
        None,
        query=PublishQuery,
        repeated=("topic",),
        response=Published,
        body_schema={},
        headers=BEARER,
        errors=(401,),
        admits=admits,
        max_bytes=_MAX_MESSAGE_BYTES,
    ),
    Endpoint(
        "POST",
        "/v1/realtime/publish/tee",
        no_endpoints,
        NO_OP,
        "Streams of durable endpoints: not supported",
        None,
        query=TeeQuery,
        headers=BEARER,
        errors=(401, 501),
        admits=admits,
    ),
    Endpoint(
        "POST",
        "/v1/realtime/token",
        token,
        _GROUP,
        "A token for topics",
        None,
        body=TokenRequest,
        response=Token,
        status=201,
        headers=BEARER,
        errors=(401,),
        admits=admits,
    ),
    Endpoint(
        "GET",
        "/v1/realtime/sse",
        events,
        _GROUP,
        "The messages of the topics of a token, as server-sent events",
        None,
        query=TokenQuery,
        media_types=("text/event-stream",),
        errors=(401, 503),
    ),
]
