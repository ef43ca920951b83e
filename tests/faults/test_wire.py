"""One fault at a time under load, and the promises that hold whatever the wire does: one outcome for each
request, in time, never another's payload, one run in a responder's life, and all is well afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from faults.lab import Lab, Peer
from faults.peers import SESSION, Load, Log, connected
from faults.wire import Direction, Link, Wire
from support.waiting import eventually

Fault = Callable[[Lab, Wire, Peer], Awaitable[None]]


async def cut(_lab: Lab, wire: Wire, peer: Peer) -> None:
    for _ in range(4):
        assert wire.cut() == 2
        peer.wire.cut()
        await asyncio.sleep(0.25)


async def fin(_lab: Lab, wire: Wire, peer: Peer) -> None:
    for _ in range(3):
        assert await wire.fin() == 2
        await peer.wire.fin()
        await asyncio.sleep(0.25)


async def torn(_lab: Lab, wire: Wire, peer: Peer) -> None:
    for _ in range(4):
        links = [*wire.links, *peer.wire.links]
        for link in links:
            link.tear()
        await noticed(links)
        await asyncio.sleep(0.25)


async def stall(_lab: Lab, wire: Wire, peer: Peer) -> None:
    links = [*wire.links, *peer.wire.links]
    for directions in ((), ("up",), ("down",)):
        for link in links:
            link.stall(*directions)
        await asyncio.sleep(0.3)
        for link in links:
            link.resume()
        await asyncio.sleep(0.1)
    assert not any(link.ended for link in links), "shorter than the keep alive: nobody hangs up"


async def half_open(_lab: Lab, wire: Wire, peer: Peer) -> None:
    links = [*wire.links, *peer.wire.links]
    for link in links:
        link.halve()
    await noticed(links)


def one_way(direction: Direction) -> Fault:
    async def fault(_lab: Lab, wire: Wire, peer: Peer) -> None:
        links = [*wire.links, *peer.wire.links]
        for link in links:
            link.lose(direction)
        await noticed(links)

    return fault


async def noticed(links: list[Link]) -> None:
    """A keep alive of 1 s: PINGREQ after 0.9 s, its answer is missed after as much again. Where something
    else still arrives, it may be up to the broker, which looks every 5 s (Mosquitto 2.0.11)."""
    await eventually(lambda: all(link.ended for link in links), 8)


async def byte_by_byte(_lab: Lab, wire: Wire, peer: Peer) -> None:
    wire.dribble()
    peer.wire.dribble()
    wire.cut()  # the handshake, too
    peer.wire.cut()
    await asyncio.sleep(1)


async def delay(_lab: Lab, wire: Wire, peer: Peer) -> None:
    wire.slow(0.05)
    peer.wire.slow(0.05)
    await asyncio.sleep(1)


async def broker_killed(lab: Lab, _wire: Wire, _peer: Peer) -> None:
    await lab.kill_broker(0.3)


async def responder_killed(_lab: Lab, _wire: Wire, peer: Peer) -> None:
    await peer.kill()
    await asyncio.sleep(0.3)
    await peer.start()


FAULTS: dict[str, Fault] = {
    "RST": cut,
    "RST within a packet": torn,
    "FIN": fin,
    "stall": stall,
    "half-open": half_open,
    "lost on the way up": one_way("up"),
    "lost on the way down": one_way("down"),
    "byte by byte": byte_by_byte,
    "delay": delay,
    "SIGKILL of the broker": broker_killed,
    "SIGKILL of the responder": responder_killed,
}


@pytest.mark.parametrize("name", FAULTS)
async def test_the_promises_hold_and_all_is_well_afterwards(lab: Lab, name: str) -> None:
    peer = await lab.responder(0, keep_alive=1)
    wire = await lab.wire()
    path = lab.directory / "here.jsonl"
    log = Log(path)
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(connected(wire.url, keep_alive=1, client_id="kept", **SESSION))
        lost = await stack.enter_async_context(connected(wire.url, keep_alive=1))
        loads = [
            Load(requester, log, name, 1, responders=1, timeouts=(0.3, 0.6, 1))
            for name, requester in (("kept", kept), ("lost", lost))
        ]
        for load in loads:
            stack.push_async_callback(load.cancel)
            load.start(20)
        await asyncio.sleep(0.3)
        await FAULTS[name](lab, wire, peer)
        wire.heal()
        peer.wire.heal()
        await asyncio.gather(*(load.stop() for load in loads))
        for load in loads:
            assert load.requester.client.stats().pending == 0
            assert await load.recovered(), "no recovery"
    log.close()
    report = lab.report(path, complete=False)
    assert not report.violations, "\n".join(report.violations)
    assert report.requests > 50
    assert report.outcomes["response"] > 0
