"""Routers: prefixes, tags, middleware and lifespans that nest."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import reqtt
from reqtt import Request, Response, Router, responder
from reqtt.router import collect

Factory = Callable[..., Awaitable[Any]]


def layer(name: str) -> Any:
    """Middleware that puts its name around the response."""

    async def around(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        return Response(f"{name}({response.text})")

    return around


async def test_routers_nest_with_their_prefixes_captures_and_middleware(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    rooms = Router("rooms/{room}", middleware=[layer("rooms")])
    lamps = Router("lamps/", middleware=[layer("lamps"), layer("inner")])

    @lamps.responder("{lamp}/power")
    async def power(lamp: str, request: Request, body: str) -> str:
        return f"{request.captures['room']} {lamp} {body}"

    @rooms.responder("name")
    async def name(room: str) -> str:
        return room

    @responder(f"{topic}/alone")
    async def alone() -> str:
        return "alone"

    house = Router(topic)
    rooms.include(lamps)
    house.include(rooms)
    await serving(broker, [house, alone], middleware=[layer("app")])
    req = await requester(broker)
    response = await req.request(f"{topic}/rooms/hall/lamps/left/power", "ON")
    assert response.text == "app(rooms(lamps(inner(hall left ON))))"
    assert (await req.request(f"{topic}/rooms/hall/name")).text == "app(rooms(hall))"
    assert (await req.request(f"{topic}/alone")).text == "app(alone)"


def test_tags_are_those_of_all_routers_above_the_outermost_first() -> None:
    house, lamps = Router("house", tags=["house", "indoor"]), Router("lamps", tags=("light", "house"))
    lamps.responder("power")(lambda body: None)
    house.responder("door")(lambda body: None)
    house.include(lamps)
    assert [(spec.topic_filter, spec.tags) for spec in collect(house)] == [
        ("house/door", ("house", "indoor")),
        ("house/lamps/power", ("house", "indoor", "light")),
    ]
    # Without the house, they are a router of their own.
    assert [spec.tags for spec in collect(lamps)] == [("light", "house")]


def test_a_module_serves_its_routers_once() -> None:
    module = types.ModuleType("handlers")
    inner, outer = Router("inner", tags=["in"]), Router("outer", tags=["out"])
    inner.responder("x")(lambda body: None)
    outer.include(inner)
    module.inner, module.outer = inner, outer  # type: ignore[attr-defined]
    assert [(spec.topic_filter, spec.tags) for spec in collect(module)] == [("outer/inner/x", ("out", "in"))]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prefix": 3}, "prefix must be a str"),
        ({"tags": "lights"}, r"write \['lights'\]"),
        ({"tags": [3]}, "a tag must be a name, not 3"),
        ({"tags": [""]}, "a tag must be a name, not ''"),
        ({"middleware": [3]}, "async def"),
        ({"lifespan": 3}, "app -> async context manager"),
    ],
    ids=str,
)
def test_what_a_router_cannot_have_is_refused_at_once(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Router(**wrong)


def test_a_wrong_prefix_shows_where_a_handler_is_added() -> None:
    with pytest.raises(reqtt.InvalidTopic, match="invalid topic"):
        Router("a/#").responder("b")(lambda body: None)
