"""One process of a measurement: `python -m benchmarks.worker requester|responder MODULE [--uvloop] ...`.

It talks with `measure.py` in lines of JSON: a responder says `ready`; a requester says `first` after its
first response and `warm` when it is ready, begins its load at the line that it gets then, and says its
`result`. Both end when their standard input does.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
import threading
from array import array
from collections.abc import Awaitable, Callable
from importlib import import_module
from itertools import count
from time import perf_counter_ns
from typing import Any

from benchmarks.settings import Settings

Request = Callable[[bytes], Awaitable[bytes]]
# After so many failures the rest would tell nothing new.
FAILURES = 100


def say(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


class Outcome:
    def __init__(self) -> None:
        self.latencies = array("q")
        self.wrong = self.timeouts = self.errors = 0
        self.error = ""
        self.seconds = 0.0

    async def ask(self, request: Request, body: bytes, since: int) -> None:
        """One request; what it took counts from `since`."""
        try:
            answer = await request(body)
        except TimeoutError:
            self.timeouts += 1
        except Exception as error:
            self.errors += 1
            self.error = self.error or f"{type(error).__name__}: {error}"[:300]
        else:
            if answer == body:
                self.latencies.append(perf_counter_ns() - since)
            else:
                self.wrong += 1

    @property
    def failures(self) -> int:
        return self.wrong + self.timeouts + self.errors

    def report(self) -> None:
        ordered = sorted(self.latencies)

        def at(share: float) -> float:
            return round(ordered[round(share * (len(ordered) - 1))] / 1e3, 1) if ordered else 0.0

        say(
            "result",
            completed=len(ordered),
            wrong=self.wrong,
            timeouts=self.timeouts,
            errors=self.errors,
            error=self.error,
            seconds=self.seconds,
            percentiles_us=[at(percent / 100) for percent in range(101)],
            p999_us=at(0.999),
        )


async def closed(request: Request, settings: Settings, seconds: float) -> Outcome:
    """Keeps `in_flight` requests under way until the time is up, and waits for the last of them."""
    outcome, bodies, numbers = Outcome(), settings.bodies(), count()
    ask, several = outcome.ask, len(bodies)
    start = perf_counter_ns()
    end = start + int(seconds * 1e9)

    async def caller() -> None:
        while (now := perf_counter_ns()) < end and outcome.failures < FAILURES:
            await ask(request, bodies[next(numbers) % several], now)

    await asyncio.gather(*(caller() for _ in range(settings.in_flight)))
    outcome.seconds = (perf_counter_ns() - start) / 1e9
    return outcome


def timer(seconds: float) -> int:
    """A descriptor that becomes readable in this interval: event loops round their own timers to 1 ms."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.timerfd_create(1, 0o4000)  # CLOCK_MONOTONIC, TFD_NONBLOCK
    interval = (0, int(seconds * 1e9))
    times = (ctypes.c_long * 4)(*interval, *interval)
    if descriptor < 0 or libc.timerfd_settime(descriptor, 0, times, None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd: an open loop needs Linux")
    return descriptor


async def opened(request: Request, settings: Settings, seconds: float) -> Outcome:
    """Requests leave when they are due, and what they wait for their turn counts, too."""
    outcome, bodies = Outcome(), settings.bodies()
    loop = asyncio.get_running_loop()
    due = int(seconds * settings.rate)
    tasks: set[asyncio.Task[None]] = set()
    issued, finished = 0, asyncio.Event()
    descriptor = timer(max(1 / settings.rate, 100e-6))
    start = perf_counter_ns()

    def tick() -> None:
        nonlocal issued
        os.read(descriptor, 8)
        until = min(due, int((perf_counter_ns() - start) / 1e9 * settings.rate) + 1)
        for number in range(issued, until):
            intended = start + int(number / settings.rate * 1e9)
            body = bodies[number % len(bodies)]
            task = asyncio.ensure_future(outcome.ask(request, body, intended))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        issued = until
        if issued == due or outcome.failures > FAILURES:
            loop.remove_reader(descriptor)
            finished.set()

    loop.add_reader(descriptor, tick)
    await finished.wait()
    if tasks:
        await asyncio.wait(tasks)
    os.close(descriptor)
    outcome.seconds = (perf_counter_ns() - start) / 1e9
    return outcome


def compute(until: threading.Event) -> None:
    """Holds the GIL whenever it gets it."""
    total = 0
    while not until.is_set():
        for number in range(1000):
            total += number * number


async def requester(module: str, settings: Settings) -> None:
    begun = perf_counter_ns()
    library = import_module(module)
    imported = perf_counter_ns()
    peer = library.Requester(settings)
    await peer.open()
    opened_at = perf_counter_ns()
    body = settings.bodies()[0]
    answer = await peer.request(body)
    answered = perf_counter_ns()
    if answer != body:
        raise SystemExit("the first response is not the one to the first request")
    say(
        "first",
        import_ms=(imported - begun) / 1e6,
        connect_ms=(opened_at - imported) / 1e6,
        request_ms=(answered - opened_at) / 1e6,
    )
    await closed(peer.request, settings, settings.warmup)
    say("warm")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    enough = threading.Event()
    if settings.hog:
        threading.Thread(target=compute, args=[enough], daemon=True).start()
    run = opened if settings.rate else closed
    outcome = await run(peer.request, settings, settings.seconds)
    enough.set()
    outcome.report()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def responder(module: str, settings: Settings) -> None:
    serving = asyncio.ensure_future(import_module(module).respond(settings, lambda: say("ready")))
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
        raise SystemExit("the responder ended by itself")


def main(role: str, module: str, *arguments: str) -> None:
    uvloop = "--uvloop" in arguments
    settings = Settings.parse([argument for argument in arguments if argument != "--uvloop"])
    run: Callable[[Any], Any] = asyncio.run
    if uvloop:
        run = import_module("uvloop").run

    async def alive() -> None:
        await (requester if role == "requester" else responder)(module, settings)
        # How a library takes leave is not measured, and a thread may still wait for standard input.
        sys.stdout.flush()
        os._exit(0)

    try:
        run(alive())
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
