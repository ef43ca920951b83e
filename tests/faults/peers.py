"""Both sides of the lab, and their logs: `python peers.py requester|responder '{"url": ..., ...}'`.

Each side writes what it saw, one line of JSON per fact, and judges nothing but the payload in its hand. What
the logs mean together is `faults.lab`'s business.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import reqtt
from reqtt import Request, RequestError, responder
from support.footprint import native_threads, resident

RECONNECT = reqtt.Reconnect(initial=0.05, max=0.5, jitter=0.5)
SESSION: dict[str, Any] = {"clean_start": False, "session_expiry_interval": 300}
# Which requests are made how often; "nobody" has no responder.
KINDS = {"echo": 36, "json": 25, "def": 10, "slow": 8, "shared": 13, "error": 6, "nobody": 2}


class Log:
    """Lines of JSON. A line is with the kernel when `write` returns: a SIGKILL takes none back."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **facts: Any) -> None:
        os.write(self._fd, json.dumps(facts).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def left_behind(tasks: set[asyncio.Task[Any]], threads: set[threading.Thread]) -> list[str]:
    """Tasks and threads that were not there before. The loop's own executor ends with the loop."""
    new_tasks = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    new_threads = [t for t in threading.enumerate() if t not in threads and not t.name.startswith("asyncio_")]
    return [*map(repr, new_tasks), *map(repr, new_threads)]


# --- the responding side


def pad(text: str, size: int) -> bytes:
    """`size` bytes that belong to this text alone."""
    return (text.encode() * (size // len(text) + 1))[:size]


def encode(ident: str, delay: float, size: int) -> bytes:
    return b"%b %g\n%b" % (ident.encode(), delay, pad(ident, size))


def answer(ident: str, life: str, payload: bytes) -> bytes:
    """The payload again, under a line that says whose it is, who made it, and what was received."""
    return b"%b %b %d\n%b" % (ident.encode(), life.encode(), zlib.crc32(payload), payload)


def handlers(number: int, life: str, log: Log) -> list[Any]:
    def note(request: Request, ident: str, handler: str) -> None:
        cd = (request.correlation_data or b"").hex()
        left = request.remaining()
        log.write(
            run=ident, life=life, handler=handler, cd=cd, dup=request.dup, left=left, t=time.monotonic()
        )

    def read(request: Request, handler: str) -> tuple[str, float]:
        ident, delay = request.payload.split(b"\n", 1)[0].decode().split()
        note(request, ident, handler)
        return ident, float(delay)

    @responder(f"lab/{number}/echo", qos=2, concurrency=200)
    async def echo(request: Request) -> bytes:
        ident, delay = read(request, "echo")
        await asyncio.sleep(delay)
        return answer(ident, life, request.payload)

    @responder(f"lab/{number}/json/{{name}}", qos=2, concurrency=200)
    async def as_json(name: str, body: dict[str, Any], request: Request) -> dict[str, Any]:
        note(request, body["id"], "json")
        await asyncio.sleep(body["delay"])
        return {"id": body["id"], "life": life, "pad": body["pad"], "name": name}

    @responder(f"lab/{number}/def", qos=2, concurrency=16)
    def threaded(request: Request) -> bytes:
        ident, delay = read(request, "def")
        time.sleep(min(delay, 0.1))
        return answer(ident, life, request.payload)

    @responder(f"lab/{number}/slow", qos=2, concurrency=100, ack="on_receipt", timeout=0.8)
    async def slow(request: Request) -> bytes:
        ident, delay = read(request, "slow")
        await asyncio.sleep(delay * 2)
        return answer(ident, life, request.payload)

    @responder("lab/shared", qos=2, group="lab", concurrency=100)
    async def shared(request: Request) -> bytes:
        ident, delay = read(request, "shared")
        await asyncio.sleep(delay)
        return answer(ident, life, request.payload)

    @responder(f"lab/{number}/error", qos=2, concurrency=100)
    async def error(request: Request) -> bytes:
        ident, delay = read(request, "error")
        await asyncio.sleep(delay / 4)
        raise RequestError(409, "as asked for", code="E1", data={"id": ident})

    return [echo, as_json, threaded, slow, shared, error]


async def respond(url: str, log: str, number: int, keep_alive: int = 2) -> None:
    """Until SIGTERM."""
    life = f"{number}.{os.getpid()}"
    out = Log(log)
    app = reqtt.Responder(
        url,
        handlers(number, life, out),
        client_id=f"lab-responder-{number}",
        keep_alive=keep_alive,
        reconnect=RECONNECT,
        **SESSION,
    )

    async def report() -> None:
        while True:
            out.write(life=life, stats=asdict(app.client.stats()), rss=resident())
            await asyncio.sleep(1)

    while True:
        try:
            await app.client.connect()
            break
        except reqtt.ConnectError:  # started in the middle of a fault
            await asyncio.sleep(0.1)
    async with app:
        reporting = asyncio.ensure_future(report())
        serving = asyncio.ensure_future(app.serve_forever())
        await asyncio.sleep(0)  # its first step takes over SIGTERM
        say("READY")
        await serving
        reporting.cancel()
    out.write(life=life, stats=asdict(app.client.stats()), rss=resident(), end=True)
    say("END")


# --- the requesting side


class Load:
    """Workers that ask, each one request after the other, and write down how each of them ended."""

    def __init__(
        self,
        requester: reqtt.Requester,
        log: Log,
        name: str,
        seed: int,
        *,
        responders: int = 2,
        timeouts: Sequence[float] = (0.5, 1.0, 2.0, 3.0, 5.0),
    ) -> None:
        self.requester = requester
        self.log = log
        self.name = name
        self.rng = random.Random(f"{seed}/{name}")
        self.numbers = itertools.count()
        self.responders = responders
        self.timeouts = timeouts
        self.stopping = asyncio.Event()
        self.workers: list[asyncio.Task[None]] = []

    def start(self, workers: int) -> None:
        self.workers = [asyncio.ensure_future(self._work()) for _ in range(workers)]

    async def stop(self) -> None:
        """No new requests; those under way come to their ends."""
        self.stopping.set()
        await asyncio.gather(*self.workers)

    async def cancel(self) -> None:
        """Where something went wrong: workers on a closed requester would run for ever."""
        for worker in self.workers:
            worker.cancel()
        await asyncio.gather(*self.workers, return_exceptions=True)

    async def _work(self) -> None:
        while not self.stopping.is_set():
            await self.ask(self._choose())
            await asyncio.sleep(0)  # a request may fail without waiting for anything

    def _choose(self) -> dict[str, Any]:
        rng = self.rng
        return {
            "kind": rng.choices(list(KINDS), list(KINDS.values()))[0],
            "delay": rng.choice((0.0, 0.1, 0.2, 0.4, 0.6)),
            "size": rng.choice((0, 10, 100, 1000, 10_000, 60_000)) if rng.random() < 0.3 else 20,
            "timeout": rng.choice(self.timeouts),
            "qos": rng.choices((0, 1, 2), (15, 65, 20))[0],
            "cancel": rng.random() * 0.5 if rng.random() < 0.04 else None,
        }

    async def ask(self, choice: dict[str, Any], *, probe: bool = False) -> str:
        """One request from its start to its outcome, which is written down and returned."""
        kind, delay, size, timeout = choice["kind"], choice["delay"], choice["size"], choice["timeout"]
        ident = f"{self.name}-{next(self.numbers)}"
        number = choice.get("number", self.rng.randrange(self.responders))
        topic = f"lab/{kind}" if kind == "shared" else f"lab/{number}/{kind}"
        payload = encode(ident, delay, size)
        options: dict[str, Any] = {"timeout": timeout, "qos": choice["qos"]}
        if kind == "json":
            topic += f"/{ident}"
            payload = json.dumps({"id": ident, "delay": delay, "pad": pad(ident, size).decode()}).encode()
            options["content_type"] = "application/json"
        if self.rng.random() < 0.5:
            options["correlation_data"] = ident.encode().ljust(16, b"_")
        self.log.write(start=ident, kind=kind, timeout=timeout, probe=probe)
        began = time.monotonic()
        detail = ""
        try:
            call: Any = self.requester.request(topic, payload, **options)
            if choice["cancel"] is not None:
                call = asyncio.ensure_future(call)
                asyncio.get_running_loop().call_later(choice["cancel"], call.cancel)
            response = await call
            outcome = "response"
            detail = self._wrong(kind, ident, payload, response)
        except asyncio.CancelledError:
            outcome = "cancellation"
            if choice["cancel"] is None:
                raise
        except reqtt.RemoteError as error:
            outcome = "remote error"
            right = kind == "error" and error.status == 409 and error.data == {"id": ident}
            if not right and error.status not in (408, 503):
                detail = f"{error!r} for {kind}"
        except reqtt.ResponseTimeout as error:
            outcome = "timeout"
            # Mosquitto says it in a PUBACK only: it routes a QoS 2 message when PUBREL has come.
            if kind == "nobody" and error.phase == "response" and choice["qos"] == 1:
                detail = "no 0x10 for a topic without subscribers"
        except (reqtt.PublishError, reqtt.SubscribeError) as error:
            outcome = "refusal"
            # A broker that was killed may have lost the responders' subscriptions for a moment: 0x10 is fine.
            if not isinstance(error, reqtt.NoMatchingSubscribers):
                detail = repr(error)
        except (reqtt.ConnectionLost, reqtt.ClientClosed) as error:
            outcome = "connection error"
            detail = repr(error) if isinstance(error, reqtt.ClientClosed) else ""
        except Exception as error:
            outcome = "?"
            detail = repr(error)
        self.log.write(
            end=ident,
            outcome=outcome,
            wrong=detail,
            took=round(time.monotonic() - began, 4),
            timeout=timeout,
            probe=probe,
            kind=kind,
            t=time.monotonic(),
        )
        return outcome

    def _wrong(self, kind: str, ident: str, payload: bytes, response: reqtt.Response) -> str:
        """What is wrong with a response; nothing, as a rule."""
        if kind == "json":
            body, sent = response.json(), json.loads(payload)
            right = (body["id"], body["pad"], body["name"]) == (ident, sent["pad"], ident)
        elif kind in ("error", "nobody"):
            right = False
        else:
            head, _, rest = response.payload.partition(b"\n")
            words = head.decode().split()
            right = (words[0], int(words[2]), rest) == (ident, zlib.crc32(payload), payload)
        return "" if right else f"wrong payload for {kind}: {response.payload[:80]!r}"

    async def recovered(self, patience: float = 10) -> bool:
        """Whether every responder answers again, now that nothing is broken any more."""
        # Not "shared": Mosquitto 2.0.11 forgets shared subscriptions when it restarts, and says that it has
        # the session.
        answered = [kind for kind in KINDS if kind not in ("nobody", "shared")]
        kinds = [{"kind": kind, "number": n} for n in range(self.responders) for kind in answered]
        deadline = time.monotonic() + patience
        for kind in kinds:
            choice = {"delay": 0.0, "size": 20, "timeout": 3.0, "qos": 1, "cancel": None, **kind}
            wanted = "remote error" if kind["kind"] == "error" else "response"
            while await self.ask(choice, probe=True) != wanted:
                if time.monotonic() > deadline:
                    self.log.write(stuck=f"{self.name}: no answer on {kind} after the last fault")
                    return False
                await asyncio.sleep(0.1)
        return True


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[reqtt.Requester]:
    """A requester, even where the first connects fail."""
    requester = reqtt.Requester(url, reconnect=RECONNECT, **options)
    while True:
        try:
            await requester.client.connect()
            break
        except reqtt.ConnectError:
            await asyncio.sleep(0.1)
    async with requester:
        yield requester


async def request(
    url: str, log: str, name: str, seed: int, workers: int, session: bool, keep_alive: int = 2
) -> None:
    """Until SIGTERM: then all requests end, and it is looked at what is left."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    out = Log(log)
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    options: dict[str, Any] = {"keep_alive": keep_alive}
    if session:
        options |= {**SESSION, "client_id": f"lab-requester-{name}"}
    async with connected(url, **options) as req, connected(url, keep_alive=keep_alive, resend=False) as once:
        loads = [Load(req, out, name, seed), Load(once, out, f"{name}x", seed)]
        native = native_threads()
        # The first thousands fill caches and arenas; what grows after them would grow for ever.
        loads[0].start(workers - workers // 5)
        loads[1].start(workers // 5)
        say("READY")
        say(f"RSS {resident()}")
        warm = asyncio.get_running_loop().time() + 5
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), 1)
            except TimeoutError:
                if asyncio.get_running_loop().time() >= warm:
                    warm = float("inf")
                    out.write(rss="start", bytes=resident())
        await asyncio.gather(*(load.stop() for load in loads))
        for load in loads:
            stats = load.requester.client.stats()
            out.write(name=load.name, pending=stats.pending)
            await load.recovered()
            out.write(name=load.name, stats=asdict(load.requester.client.stats()))
    del req, once, loads, load
    for _ in range(100):
        left = left_behind(tasks, threads)
        if not left and native_threads() <= native:
            break
        await asyncio.sleep(0.02)
    if native_threads() > native:
        left.append(f"{native_threads()} native threads, {native} before")
    out.write(name=name, left=left)
    out.write(rss="end", bytes=resident())
    out.close()
    say("END")


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    asyncio.run(request(**options) if sys.argv[1] == "requester" else respond(**options))
