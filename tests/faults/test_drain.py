"""The end of a responder: what it has taken is answered, in good order, and nothing holds it up for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import reqtt
from faults.lab import PEERS, at_most, lines
from faults.peers import encode
from reqtt import responder
from support.packets import DISCONNECT, PUBACK, PUBLISH, UNSUBACK, UNSUBSCRIBE
from support.process import Child, child
from support.proxy import Proxy
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
ECHO = "lab/0/echo"


@asynccontextmanager
async def serving_process(url: str, log: Path) -> AsyncIterator[Child]:
    async with child(
        str(PEERS), "responder", json.dumps({"url": url, "log": str(log), "number": 0})
    ) as process:
        await process.line("READY")
        yield process


def ask(req: reqtt.Requester, count: int, delay: float) -> list[asyncio.Task[reqtt.Response]]:
    return [
        asyncio.ensure_future(req.request(ECHO, encode(f"r-{i}", delay, 10), timeout=20, qos=1))
        for i in range(count)
    ]


async def test_sigterm_answers_all_that_was_taken_then_says_good_bye(
    proxy: Proxy, requester: Factory, broker: Any, tmp_path: Path
) -> None:
    req = await requester(broker)
    async with serving_process(proxy.url, tmp_path / "log") as process:
        waiting = ask(req, 40, 0.5)
        await proxy.wait_down(PUBLISH, ECHO, count=20)
        process.process.send_signal(signal.SIGTERM)
        await proxy.wait_down(UNSUBACK, count=6)
        late = ask(req, 5, 0)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for outcome in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(outcome, reqtt.NoMatchingSubscribers)
        assert await asyncio.wait_for(process.process.wait(), 5) == 0
    delivered = proxy.down(PUBLISH, ECHO)
    answered = [o for o in outcomes if isinstance(o, reqtt.Response)]
    # What came too late for the subscription was refused at once; nobody was left waiting.
    assert all(isinstance(o, reqtt.Response | reqtt.NoMatchingSubscribers) for o in outcomes)
    assert len(answered) == len(delivered) >= 20
    (goodbye,) = proxy.up(DISCONNECT)
    assert goodbye.packet.reason_code == 0
    assert goodbye is proxy.up()[-1]
    unsubscribed = max(r.index for r in proxy.up(UNSUBSCRIBE))
    responses = {r.packet.correlation_data: r.index for r in proxy.up(PUBLISH)}
    acknowledged = [r for r in proxy.up(PUBACK) if r.index < goodbye.index]
    assert [r.packet.packet_id for r in acknowledged] == [r.packet.packet_id for r in delivered]
    for delivery, puback in zip(delivered, acknowledged, strict=True):
        assert unsubscribed < responses[delivery.packet.correlation_data] < puback.index < goodbye.index
    runs = [line["run"] for line in lines(tmp_path / "log") if "run" in line]
    assert len(runs) == len(set(runs)) == len(delivered)


async def test_sigterm_while_the_broker_is_away_still_answers_when_it_is_back(
    proxy: Proxy, requester: Factory, broker: Any, tmp_path: Path
) -> None:
    req = await requester(broker)
    async with serving_process(proxy.url, tmp_path / "log") as process:
        waiting = ask(req, 5, 0.2)
        await eventually(lambda: len((tmp_path / "log").read_text().split('"run"')) > 5)
        proxy.refuse()
        proxy.cut()
        process.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.4)
        assert process.process.returncode is None, "it has answers to deliver"
        proxy.delay(0.1, "down")
        await proxy.accept()
        assert [r.payload.split()[0] for r in await asyncio.gather(*waiting)] == [
            b"r-%d" % i for i in range(5)
        ]
        assert await asyncio.wait_for(process.process.wait(), 5) == 0
    # The session holds none of them for the next process, which would run them again.
    (goodbye,) = proxy.up(DISCONNECT)
    assert [r.packet.packet_id for r in proxy.up(PUBACK)] == [
        r.packet.packet_id for r in proxy.down(PUBLISH, ECHO) if r.connection == goodbye.connection
    ]
    assert goodbye is proxy.up()[-1]
    assert len([r for r in proxy.down(UNSUBACK) if r.index < goodbye.index]) == 6
    runs = [line["run"] for line in lines(tmp_path / "log") if "run" in line]
    assert sorted(runs) == [f"r-{i}" for i in range(5)]


async def test_sigterm_while_the_broker_is_away_and_nothing_is_owed_ends_at_once(
    proxy: Proxy, tmp_path: Path
) -> None:
    async with serving_process(proxy.url, tmp_path / "log") as process:
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(0.1)
        process.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.process.wait(), 3) == 0


async def test_a_drain_that_waits_for_its_unsuback_ends_with_the_connection(
    proxy: Proxy, tmp_path: Path
) -> None:
    async with serving_process(proxy.url, tmp_path / "log") as process:
        proxy.drop("down", UNSUBACK)
        process.process.send_signal(signal.SIGTERM)
        await proxy.wait_up(UNSUBSCRIBE, count=6)
        await asyncio.sleep(0.1)
        assert process.process.returncode is None
        proxy.refuse()
        proxy.cut()
        assert await asyncio.wait_for(process.process.wait(), 3) == 0


async def test_a_second_sigterm_does_not_wait(
    proxy: Proxy, requester: Factory, broker: Any, tmp_path: Path
) -> None:
    req = await requester(broker)
    async with serving_process(proxy.url, tmp_path / "log") as process:
        (waiting,) = ask(req, 1, 30)
        await proxy.wait_down(PUBLISH, ECHO)
        process.process.send_signal(signal.SIGTERM)
        await proxy.wait_down(UNSUBACK, count=6)
        process.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.process.wait(), 3) == -signal.SIGTERM
        waiting.cancel()


async def test_a_worker_thread_that_is_stuck_holds_up_close_no_longer_than_its_timeout(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    release, started = threading.Event(), threading.Event()

    @responder(topic, concurrency=1)
    def stuck() -> None:
        started.set()
        release.wait(20)

    app = await serving(broker, stuck)
    req = await requester(broker)
    try:
        first, second = (asyncio.ensure_future(req.request(topic, timeout=10)) for _ in range(2))
        await eventually(started.is_set)
        async with at_most(1, "close(timeout=0.4)"):
            await app.close(timeout=0.4)
        with pytest.raises(reqtt.RemoteUnavailable):
            await first
        assert not app.client.connected
        second.cancel()
    finally:
        release.set()


async def test_a_handler_that_will_not_be_cancelled_holds_up_close_by_a_second_at_most(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    @responder(topic)
    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    app = await serving(broker, stubborn)
    req = await requester(broker)
    waiting = asyncio.ensure_future(req.request(topic, timeout=10))
    await started.wait()
    async with at_most(2, "close(timeout=0.4), and a second of patience"):
        await app.close(timeout=0.4)
    waiting.cancel()
    release.set()
