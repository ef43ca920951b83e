"""Several processes behind one group, and what happens to the requests of one that dies."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import reqtt
from support.process import child

Factory = Callable[..., Awaitable[Any]]

WORKERS = 4
REQUESTS = 50_000
AT_A_TIME = 500


@pytest.mark.timeout(120)
async def test_one_of_four_workers_is_killed_and_each_of_50_000_requests_is_answered_once(
    own_mosquitto: Callable[..., Any], requester: Factory, topic: str
) -> None:
    broker = own_mosquitto()
    req = await requester(broker, timeout=2, retry=reqtt.Retry(attempts=5, backoff=0.1))
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                child("responder_process.py", broker.url, f"$share/workers/{topic}", "pid")
            )
            for _ in range(WORKERS)
        ]
        for worker in workers:
            await worker.line("READY")
        numbers = iter(range(REQUESTS))
        answers: list[tuple[int, int]] = []
        half, a_little_later = asyncio.Event(), asyncio.Event()

        async def ask() -> None:
            for number in numbers:
                said, pid = (await req.request(topic, b"%d" % number)).payload.split()
                assert int(said) == number
                answers.append((number, int(pid)))
                if len(answers) == REQUESTS // 2:
                    half.set()
                if len(answers) == REQUESTS // 2 + AT_A_TIME // 2:
                    a_little_later.set()

        async def kill_one() -> int:
            await half.wait()
            # So that it has its share of what is under way when it dies.
            workers[0].process.send_signal(signal.SIGSTOP)
            await a_little_later.wait()
            await workers[0].end(signal.SIGKILL)
            return len(answers)

        before = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(ask())
            killed = group.create_task(kill_one())
        seconds = time.monotonic() - before

    assert sorted(number for number, _ in answers) == list(range(REQUESTS))
    pids = [worker.process.pid for worker in workers]
    at_first = {pid for _, pid in answers[: REQUESTS // 4]}
    assert at_first == set(pids)
    # What it had sent before it died may still have been on its way.
    assert {pid for _, pid in answers[killed.result() + 2 * AT_A_TIME :]} == set(pids[1:])
    stats = req.client.stats()
    # Those that died with it were asked again: no more than it can have held at a time.
    asked_again = stats.requests - REQUESTS
    assert AT_A_TIME // 2 // WORKERS // 2 < asked_again <= 2 * AT_A_TIME, stats
    assert stats.pending == 0
    assert seconds < 60, f"{seconds:.1f} s"


async def test_without_a_retry_a_persistent_session_keeps_the_requests_of_a_member_that_was_killed(
    own_mosquitto: Callable[..., Any], requester: Factory, topic: str
) -> None:
    broker = own_mosquitto()
    req = await requester(broker, timeout=20)
    arguments = ("responder_process.py", broker.url, f"$share/workers/{topic}")
    async with child(*arguments, "echo", f"{topic}-other") as other:
        await other.line("READY")
        async with child(*arguments, "hang", topic) as worker:
            await worker.line("READY")
            before = [asyncio.ensure_future(req.request(topic, b"%d" % number)) for number in range(10)]
            await worker.line("GOT")
            await worker.end(signal.SIGKILL)
        # Mosquitto goes on to give a session that is away its share.
        after = [asyncio.ensure_future(req.request(topic, b"%d" % number)) for number in range(10, 20)]
        await asyncio.wait([*before, *after], timeout=1)
        waiting = [request for request in (*before, *after) if not request.done()]
        assert any(request in waiting for request in before)
        assert any(request in waiting for request in after)
        async with child(*arguments, "echo", topic) as again:
            await again.line("READY")
            responses = await asyncio.gather(*before, *after)
    assert [int(response.payload) for response in responses] == list(range(20))


async def test_without_session_or_retry_the_requests_of_a_member_that_was_killed_are_lost(
    own_mosquitto: Callable[..., Any], requester: Factory, topic: str
) -> None:
    broker = own_mosquitto()
    req = await requester(broker)
    arguments = ("responder_process.py", broker.url, f"$share/workers/{topic}")
    async with child(*arguments, "echo") as other, child(*arguments, "hang") as worker:
        await other.line("READY")
        await worker.line("READY")
        requests = [asyncio.ensure_future(req.request(topic, b"x", timeout=1)) for _ in range(10)]
        retry = reqtt.Retry(attempts=3, backoff=0.1)
        retried = [asyncio.ensure_future(req.request(topic, timeout=1, retry=retry)) for _ in range(10)]
        await worker.line("GOT")
        await worker.end(signal.SIGKILL)
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert any(isinstance(outcome, reqtt.ResponseTimeout) for outcome in outcomes)
        assert any(isinstance(outcome, reqtt.Response) for outcome in outcomes)
        await asyncio.gather(*retried)
