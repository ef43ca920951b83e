"""What a type checker has to infer. Checked by tests/test_typing.py, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, assert_type

import reqtt
from reqtt._core import Call


@dataclass
class Energy:
    watts: float


async def requests(req: reqtt.Requester) -> None:
    assert_type(req.request("a"), Call[reqtt.Response])
    assert_type(await req.request("a", {"power": "ON"}, timeout=2), reqtt.Response)
    assert_type(await req.request("a", response_type=None), reqtt.Response)
    assert_type(await req.request("a", response_type=Energy), Energy)
    assert_type(await req.request("a", response_type=list[int]), list[int])
    assert_type(await req.request("a", response_type=int | None), Any)


async def requests_at_a_time(req: reqtt.Requester) -> None:
    task = asyncio.create_task(req.request("a", response_type=Energy))
    assert_type(task, asyncio.Task[Energy])
    first, second = await asyncio.gather(req.request("a"), req.request("a", response_type=Energy))
    assert_type(first, reqtt.Response)
    assert_type(second, Energy)
    assert_type(await asyncio.gather(*(req.request("a") for _ in range(3))), list[reqtt.Response])
    assert_type(await asyncio.wait_for(req.request("a"), 1), reqtt.Response)
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(req.request("a")), asyncio.Task[reqtt.Response])


async def streams(req: reqtt.Requester) -> None:
    assert_type(req.stream("a"), reqtt.Stream[reqtt.Response])
    async for response in req.stream("a", idle_timeout=1, timeout=2):
        assert_type(response, reqtt.Response)
    async with req.stream("a", response_type=Energy) as energies:
        assert_type([energy async for energy in energies], list[Energy])


async def a_type_is_passed_on(req: reqtt.Requester, kind: type[Energy]) -> Energy:
    return await req.request("a", response_type=kind)


def responses(response: reqtt.Response) -> None:
    assert_type(response.json(), Any)
    assert_type(response.decode(Energy), Energy)
    assert_type(response.payload, bytes)
    assert_type(response.text, str)
    assert_type(response.user_properties, tuple[tuple[str, str], ...])
    assert_type(response.status, int)
    assert_type(response.latency, float)


@reqtt.responder("cmnd/{device}/power", group="lights")
async def power(device: str, body: str) -> str:
    return body


site = reqtt.Router("site1/")


@site.responder("cmnd/#")
def fallback(request: reqtt.Request) -> bytes:
    assert_type(request.captures, dict[str, str])
    assert_type(request.remaining(), float | None)
    return request.payload


async def handlers_keep_their_type(request: reqtt.Request) -> None:
    assert_type(await power("light", "ON"), str)
    assert_type(await power(device="light", body="ON"), str)
    assert_type(fallback(request), bytes)
    await power("light")  # type: ignore[call-arg]


async def layer(request: reqtt.Request, call_next: Any) -> reqtt.Response:
    response: reqtt.Response = await call_next(request)
    return response


async def outgoing(
    request: reqtt.OutgoingRequest, call_next: Callable[[reqtt.OutgoingRequest], Awaitable[reqtt.Response]]
) -> reqtt.Response:
    assert_type(request.topic, str)
    assert_type(request.user_properties, tuple[tuple[str, str], ...])
    return await call_next(request.replace(timeout=1))


async def with_middleware(url: str) -> None:
    req = reqtt.Requester(url, middleware=[outgoing, layer_of_any])
    assert_type(await req.request("a", response_type=Energy), Energy)
    reqtt.Requester(url, middleware=[layer])  # type: ignore[list-item]


async def layer_of_any(request: Any, call_next: Any) -> reqtt.Response:
    response: reqtt.Response = await call_next(request)
    return response


def meter(app: reqtt.Responder) -> Energy:
    assert_type(app.state, Any)
    return Energy(0)


@reqtt.responder("energy")
async def energy(now: Annotated[Energy, reqtt.Depends(meter)], request: reqtt.Request) -> float:
    assert_type(now, Energy)
    assert_type(request.state, SimpleNamespace)
    return now.watts


@asynccontextmanager
async def lifespan(app: reqtt.Responder) -> AsyncIterator[None]:
    yield


async def applications(url: str, req: reqtt.Requester) -> None:
    rooms = reqtt.Router("rooms", tags=["house"], middleware=[layer, layer_of_any], lifespan=lifespan)
    reqtt.Responder(url, [rooms, energy], lifespan=lifespan, discovery=reqtt.Discovery("rooms"), keep_alive=3)
    for found in await reqtt.discover(req, stats=True):
        assert_type(found, reqtt.ResponderInfo)
        assert_type(found.handlers[0].stats, reqtt.HandlerStats | None)


async def serving(url: str) -> None:
    async with reqtt.Responder(url, [power, site], middleware=[layer], keep_alive=10) as app:
        assert_type(app, reqtt.Responder)
        assert_type(app.client, reqtt.Client)


async def clients(client: reqtt.Client) -> None:
    async with client.subscribe("state/#", "tele/#", qos=0) as messages:
        assert_type(messages, reqtt.Subscription)
        async for message in messages:
            assert_type(message, reqtt.Message)
    assert_type(await client.publish("state/lamp", "ON", retain=True), reqtt.PubAck)
    assert_type(asyncio.create_task(client.publish("a")), asyncio.Task[reqtt.PubAck])
    assert_type(await client.connect(), reqtt.ConnAck)
    assert_type(client.events(), AsyncIterator[reqtt.ConnectionEvent])
    assert_type(client.stats(), reqtt.Stats)


def options(response_topic: reqtt.ResponseTopic) -> None:
    reqtt.Requester("mqtt://localhost", response_topic=response_topic, qos=0, username="me", keep_alive=10)
    reqtt.Requester("mqtt://localhost", response_topic=lambda client_id, info, token: f"{client_id}/{token}")
    reqtt.Requester("mqtt://localhost", keepalive=10)  # type: ignore[call-arg]
