"""What a type checker has to infer of operations and of retries, and what it has to refuse. Never run.

A line that has to be refused carries `# type: ignore`; both checkers report one that is not needed.
"""

from __future__ import annotations

import asyncio
import enum
import uuid
from dataclasses import dataclass
from typing import assert_type

import reqtt
from reqtt import Response, Retry
from reqtt._core import Call


@dataclass
class Power:
    on: bool


@dataclass
class State:
    on: bool


class Room(enum.Enum):
    HALL = "hall"


set_power = reqtt.operation("cmnd/{device}/power", request=Power, response=State, timeout=2)
read = reqtt.operation("cmnd/{device}/read", response=list[int], retry=Retry(), hedge="p95")
raw = reqtt.operation("cmnd/{device}/raw", request=bytes)
ping = reqtt.operation("ping")


@reqtt.operation("room/{room}/{number}", request=Power, response=State)
async def switch(room: Room, number: int, body: Power) -> State:
    raise NotImplementedError


@reqtt.operation("room/{room}/reset")
async def reset(room: Room, *, reason: str = "") -> None:
    raise NotImplementedError


async def calls(req: reqtt.Requester) -> None:
    assert_type(set_power(req, device="lamp", body=Power(True)), Call[State])
    assert_type(await set_power(req, device=Room.HALL, body=Power(True)), State)
    assert_type(await set_power.options(timeout=2)(req, device=uuid.UUID(int=1), body=Power(True)), State)
    assert_type(await read(req, device=3), list[int])
    assert_type(await raw(req, device="lamp", body=b""), Response)
    assert_type(await ping(req), Response)
    assert_type(set_power.topic(device="lamp"), str)
    states = await asyncio.gather(
        set_power(req, device="a", body=Power(True)), set_power(req, device="b", body=Power(True))
    )
    assert_type(states, tuple[State, State])


async def wrong_calls(req: reqtt.Requester) -> None:
    await set_power(req, device="lamp", body=State(True))  # type: ignore
    await set_power(req, device="lamp", body={"on": True})  # type: ignore
    await set_power(req, device="lamp")  # type: ignore
    await set_power(req, device=1.5, body=Power(True))  # type: ignore
    await set_power("lamp", body=Power(True))  # type: ignore
    await read(req, device="lamp", body=b"x")  # type: ignore
    set_power.options(colour=3)  # type: ignore
    number: int = await set_power(req, device="lamp", body=Power(True))  # type: ignore
    assert number


async def declared_calls(req: reqtt.Requester) -> None:
    assert_type(await switch(req, Room.HALL, 3, Power(True)), State)
    assert_type(await switch(req, room=Room.HALL, number=3, body=Power(True)), State)
    assert_type(await switch.options(qos=1)(req, Room.HALL, 3, body=Power(True)), State)
    await reset(req, Room.HALL, reason="night")


async def wrong_declared_calls(req: reqtt.Requester) -> None:
    await switch(req, "hall", 3, Power(True))  # type: ignore
    await switch(req, Room.HALL, "3", Power(True))  # type: ignore
    await switch(req, Room.HALL, 3)  # type: ignore
    await switch(req, Room.HALL, 3, Power(True), device="lamp")  # type: ignore
    await switch(req, Room.HALL, 3, State(True))  # type: ignore


@reqtt.operation("room/{room}", request=Power, response=State)  # type: ignore
async def contradicts(room: Room, body: Power) -> Power:
    raise NotImplementedError


@set_power.responder
async def power(device: str, body: Power) -> State:
    return State(body.on)


@set_power.responder(group="lights", concurrency=2)
def in_a_thread(device: str, body: Power) -> State:
    return State(body.on)


@switch.responder(ack="on_receipt")
async def switched(room: Room, number: int, body: Power, request: reqtt.Request) -> Response:
    return Response(body)


async def handlers_keep_their_type() -> None:
    assert_type(await power("lamp", Power(True)), State)
    assert_type(in_a_thread("lamp", body=Power(True)), State)
    await power("lamp")  # type: ignore


@set_power.responder  # type: ignore
async def wrong_result(device: str, body: Power) -> Power:
    return body


@set_power.responder(group="lights")  # type: ignore
def wrong_result_in_a_thread(device: str, body: Power) -> int:
    return 3


async def retries(req: reqtt.Requester) -> None:
    assert_type(req.request("a", retry=Retry(attempts=2, on=(reqtt.ResponseTimeout, 503))), Call[Response])
    assert_type(await req.request("a", response_type=Power, retry=False, hedge=0.5), Power)
    assert_type(await req.request("a", response_type=Power, hedge="p95"), Power)
    req.request("a", retry=3)  # type: ignore
    req.request("a", retry=True)  # type: ignore
    req.request("a", hedge="p99")  # type: ignore
    Retry(attempts="3")  # type: ignore
    Retry(on=reqtt.ResponseTimeout)  # type: ignore
    reqtt.Requester("mqtt://localhost", retry=Retry())
    reqtt.Requester("mqtt://localhost", retry=3)  # type: ignore
