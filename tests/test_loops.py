"""Event loops, threads, processes and awaiting: where a client may live, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop

import reqtt
from support.footprint import descriptors, native_threads
from support.waiting import eventually, eventually_blocking, run_script

Factory = Callable[..., Awaitable[Any]]


class NoReaderLoop(asyncio.SelectorEventLoop):
    """Like Windows' proactor loop: nothing can be watched."""

    def add_reader(self, *_: Any) -> None:
        raise NotImplementedError


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop, "no-reader": NoReaderLoop}


@pytest.fixture(params=list(LOOPS))
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


def run(factory: Callable[[], Any], main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def ask_and_answer(url: str, topic: str, count: int = 30) -> None:
    @reqtt.responder(topic)
    async def echo(body: bytes) -> bytes:
        await asyncio.sleep(0)
        return body

    @reqtt.responder(f"{topic}/thread")
    def reverse(body: bytes) -> bytes:
        return body[::-1]

    async with reqtt.Responder(url, [echo, reverse]), reqtt.Requester(url) as req:
        asked = [req.request(topic, str(n), timeout=5) for n in range(count)]
        assert [r.text for r in await asyncio.gather(*asked)] == [str(n) for n in range(count)]
        assert (await req.request(f"{topic}/thread", "abc", timeout=5)).payload == b"cba"
        with pytest.raises(reqtt.NoMatchingSubscribers):
            await req.request(f"{topic}/nobody", timeout=5)


# --- loops


def test_requests_and_responders_run_on_every_kind_of_loop(
    loopback: Any, topic: str, loop_factory: Any
) -> None:
    run(loop_factory, ask_and_answer(loopback.url, topic))


def test_requests_and_responders_run_in_debug_mode(loopback: Any, topic: str) -> None:
    with asyncio.Runner(debug=True) as runner:
        runner.run(ask_and_answer(loopback.url, topic))


def test_asyncio_run_works_several_times_in_a_row(loopback: Any, topic: str) -> None:
    for n in range(4):
        asyncio.run(ask_and_answer(loopback.url, f"{topic}/{n}", count=3))


def test_a_runner_keeps_a_client_from_one_run_to_the_next(
    loopback: Any, topic: str, loop_factory: Any
) -> None:
    async def open_one() -> reqtt.Client:
        client = reqtt.Client(loopback.url)
        await client.connect()
        return client

    async def use(client: reqtt.Client) -> int:
        return (await client.publish(topic)).reason_code

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        client = runner.run(open_one())
        assert runner.run(use(client)) == 0x10
        runner.run(client.close())
    assert not client.connected


def test_a_client_may_be_made_before_there_is_a_loop(loopback: Any, topic: str, loop_factory: Any) -> None:
    client = reqtt.Client(loopback.url)

    async def main() -> None:
        async with client:
            assert (await client.publish(topic)).reason_code == 0x10

    run(loop_factory, main())


def test_a_loop_for_each_of_two_threads(loopback: Any, topic: str, loop_factory: Any) -> None:
    both = threading.Barrier(2, timeout=10)
    failures: list[BaseException] = []

    async def main(n: int) -> None:
        async with reqtt.Requester(loopback.url) as req:

            @reqtt.responder(f"{topic}/{n}")
            async def mine(body: bytes) -> bytes:
                assert asyncio.get_running_loop() is loop
                return b"%d:%s" % (n, body)

            loop = asyncio.get_running_loop()
            async with reqtt.Responder(req.client, [mine]):
                await asyncio.to_thread(both.wait)
                for k in range(50):
                    # To the other thread's responder.
                    response = await req.request(f"{topic}/{1 - n}", str(k), timeout=5)
                    assert response.text == f"{1 - n}:{k}"
                await asyncio.to_thread(both.wait)

    def work(n: int) -> None:
        try:
            run(loop_factory, main(n))
        except BaseException as error:
            failures.append(error)
            both.abort()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_a_client_left_open_in_an_earlier_loop_does_not_disturb_the_next(
    loopback: Any, topic: str, loop_factory: Any
) -> None:
    left: list[reqtt.Requester] = []

    async def leave() -> None:
        req = reqtt.Requester(loopback.url, client_id="left")
        await req.__aenter__()
        left.append(req)

    run(loop_factory, leave())
    assert "left" in loopback.loopback.connections()
    run(loop_factory, ask_and_answer(loopback.url, topic, count=3))
    left.clear()
    gc.collect()
    eventually_blocking(lambda: "left" not in loopback.loopback.connections())


# --- the wrong loop, the wrong thread


@contextmanager
def everything_open(url: str, topic: str) -> Iterator[tuple[asyncio.Runner, Any, Any]]:
    @reqtt.responder(topic)
    async def echo(body: bytes) -> bytes:
        return body

    async def open_all() -> tuple[Any, Any]:
        req = await reqtt.Requester(url).__aenter__()
        app = await reqtt.Responder(req.client, [echo]).__aenter__()
        return req, app

    async def close_all(req: Any, app: Any) -> None:
        # As if nothing had happened.
        assert (await req.request(topic, "still here", timeout=3)).text == "still here"
        await app.close()
        await req.close()
        assert not req.client.connected

    with asyncio.Runner() as runner:
        req, app = runner.run(open_all())
        yield runner, req, app
        runner.run(close_all(req, app))


async def enter_subscription(client: reqtt.Client, topic: str) -> None:
    async with client.subscribe(topic):
        pass


OPERATIONS: dict[str, Callable[[Any, Any, str], Any]] = {
    "request": lambda req, _app, topic: req.request(topic, timeout=3),
    "publish": lambda req, _app, topic: req.client.publish(topic),
    "subscribe": lambda req, _app, topic: enter_subscription(req.client, f"{topic}/other"),
    "connect": lambda req, _app, _topic: req.client.connect(),
    "client.close": lambda req, _app, _topic: req.client.close(),
    "requester.close": lambda req, _app, _topic: req.close(),
    "responder.close": lambda _req, app, _topic: app.close(),
}


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_a_call_from_another_loop_says_what_to_do_and_does_no_harm(
    loopback: Any, topic: str, operation: str
) -> None:
    async def call(req: Any, app: Any) -> None:
        await OPERATIONS[operation](req, app, topic)

    with (
        everything_open(loopback.url, topic) as (_, req, app),
        asyncio.Runner() as other,
        pytest.raises(RuntimeError, match=r"another event loop.*run_coroutine_threadsafe"),
    ):
        other.run(call(req, app))


@pytest.mark.parametrize("operation", ["request", "publish"])
def test_a_call_from_a_plain_thread_says_what_to_do(loopback: Any, topic: str, operation: str) -> None:
    with everything_open(loopback.url, topic) as (runner, req, app):

        async def main() -> None:
            with pytest.raises(RuntimeError, match=r"no event loop runs in this thread.*threadsafe"):
                await asyncio.to_thread(OPERATIONS[operation], req, app, topic)

        runner.run(main())


def test_a_plain_thread_hands_a_call_over_to_the_loop(loopback: Any, topic: str) -> None:
    with everything_open(loopback.url, topic) as (runner, req, _app):

        async def ask() -> Any:
            return await req.request(topic, "from a thread", timeout=3)

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def work() -> str:
                text: str = asyncio.run_coroutine_threadsafe(ask(), loop).result(5).text
                return text

            assert await asyncio.to_thread(work) == "from a thread"

        runner.run(main())


def test_connecting_without_a_loop_says_what_to_do(loopback: Any) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        reqtt.Client(loopback.url).connect().send(None)


# --- processes

FORK = """
import asyncio, os, sys
import reqtt

url, topic = sys.argv[1:]

async def ask(text):
    async with reqtt.Requester(url) as req:
        return (await req.request(topic, text, timeout=5)).text

def in_child(req, client, subscription):
    said = []
    async def old(call):
        try:
            await call()
            said.append("no error")
        except RuntimeError as error:
            said.append(str(error))
    asyncio.run(old(lambda: req.request(topic, "x")))
    asyncio.run(old(lambda: client.publish(topic, "x")))
    asyncio.run(old(client.connect))
    said.append(asyncio.run(ask("from the child")))
    # Whatever it says, the parent must not notice.
    subscription.close()
    for call in (req.close, client.close):
        try:
            asyncio.run(call())
        except Exception:
            pass
    said.append(asyncio.run(ask("again")))
    return said

async def main():
    async with reqtt.Requester(url) as req, reqtt.Client(url) as one, one.subscribe(topic + "/s") as got:
        assert (await req.request(topic, "before", timeout=5)).text == "before"
        waiting = asyncio.ensure_future(req.request(topic, "slow", timeout=5))
        await one.publish(topic)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                said = in_child(req, one, got)
            except BaseException as error:
                said = [repr(error)]
            os.write(write, "\\n".join(said).encode())
            os._exit(0)
        os.close(write)
        while not select_readable(read):
            await asyncio.sleep(0.01)
        print(os.read(read, 65536).decode())
        os.waitpid(pid, 0)
        assert (await waiting).text == "slow"
        assert (await req.request(topic, "after", timeout=5)).text == "after"
        await one.publish(topic + "/s", "after")
        assert (await anext(aiter(got))).text == "after"
        print("parent unaffected")

def select_readable(fd):
    import select
    return select.select([fd], [], [], 0)[0]

asyncio.run(main())
"""


async def test_after_fork_the_old_client_says_so_and_a_new_one_works(
    loopback: Any, topic: str, raw: Factory
) -> None:
    held = asyncio.Event()

    async def answer(request: Any) -> bytes:
        if request.payload == b"slow":
            await held.wait()
        if request.payload == b"again":
            held.set()
        return bytes(request.payload)

    peer = await raw(loopback)
    await peer.subscribe(topic)

    async def one(request: Any) -> None:
        await peer.respond(request, await answer(request))

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                request = await peer.receive(30)
                if request.response_topic:
                    group.create_task(one(request))

    serving = asyncio.ensure_future(serve())
    done = await asyncio.to_thread(
        run_script, FORK, loopback.url, topic, options=("-W", "ignore::DeprecationWarning")
    )
    serving.cancel()
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    for line in said[:3]:
        assert "before fork()" in line
        assert "open a new client in the child" in line
    assert said[3:] == ["from the child", "again", "parent unaffected"]


def test_a_forked_child_lets_go_of_the_parents_broker() -> None:
    done = run_script(
        """
import asyncio, gc, os, reqtt
from reqtt.testing import LoopbackBroker

async def ask(url):
    async with reqtt.Client(url) as client:
        return (await client.publish("t")).reason_code

broker = LoopbackBroker()
broker.start()
url = broker.url
pid = os.fork()
if pid == 0:
    del broker
    gc.collect()
    os._exit(asyncio.run(ask(url)))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), asyncio.run(ask(url)))
broker.stop()
""",
        options=("-W", "ignore::DeprecationWarning"),
        timeout=10,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "16 16\n", "")


EXIT = """
import asyncio, sys, threading
import uvloop
import reqtt

class NoReaderLoop(asyncio.SelectorEventLoop):
    def add_reader(self, *_):
        raise NotImplementedError

url, topic, what, loop = sys.argv[1:]
kept = []

@reqtt.responder(topic)
async def hang(body: bytes) -> bytes:
    got.set()
    await asyncio.Event().wait()

async def main():
    global got
    got = asyncio.Event()
    if what == "client":
        client = reqtt.Client(url)
        await client.connect()
        kept.append(client)
    elif what == "requests":
        req = await reqtt.Requester(url).__aenter__()
        kept.append(req)
        async with reqtt.Client(url) as client, client.subscribe(topic) as messages:
            kept.extend(req.request(topic, str(n), timeout=60) for n in range(5))
            kept.append(asyncio.ensure_future(req.request(topic, "task", timeout=60)))
            for _ in range(6):
                await anext(aiter(messages))
    elif what == "subscription":
        client = reqtt.Client(url)
        await client.connect()
        kept.append(await client.subscribe(topic).__aenter__())
    elif what == "responder":
        app = await reqtt.Responder(url, [hang]).__aenter__()
        kept.append(app)
        async with reqtt.Client(url) as client:
            await client.publish(topic, "x", response_topic="r", correlation_data=b"c")
            await got.wait()
    elif what == "unheld":
        await reqtt.Client(url).connect()
    elif what == "busy":
        # Messages come while the interpreter ends.
        client = reqtt.Client(url)
        await client.connect()
        kept.append(await client.subscribe(topic, qos=0).__aenter__())
        def flood():
            async def publish():
                async with reqtt.Client(url) as other:
                    while True:
                        await other.publish(topic, b"x" * 1000, qos=0)
                        await asyncio.sleep(0)
            asyncio.run(publish())
        threading.Thread(target=flood, daemon=True).start()
        for _ in range(100):
            await anext(aiter(kept[0]))

factory = {"asyncio": None, "uvloop": uvloop.new_event_loop, "no-reader": NoReaderLoop}[loop]
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
print("end of main")
"""


@pytest.mark.parametrize("what", ["client", "unheld", "requests", "subscription", "responder", "busy"])
@pytest.mark.parametrize("loop", list(LOOPS))
def test_the_interpreter_ends_with_everything_left_open(
    loopback: Any, topic: str, what: str, loop: str
) -> None:
    done = run_script(EXIT, loopback.url, topic, what, loop, options=("-W", "error", "-X", "dev"), timeout=15)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end of main\n", "")
    eventually_blocking(lambda: not loopback.loopback.connections())


# --- what is left behind


def test_the_waker_thread_ends_with_its_client(loopback: Any, topic: str) -> None:
    async def main() -> None:
        async with reqtt.Requester(loopback.url) as req:
            with pytest.raises(reqtt.NoMatchingSubscribers):
                await req.request(topic, timeout=5)
            assert native_threads("reqtt-wake") == 1

    run(NoReaderLoop, main())
    eventually_blocking(lambda: native_threads("reqtt-wake") == 0)


def test_no_waker_thread_where_the_loop_can_watch(loopback: Any) -> None:
    async def main() -> None:
        async with reqtt.Client(loopback.url):
            assert native_threads("reqtt-wake") == 0
            assert native_threads("reqtt-io") == 1

    run(asyncio.new_event_loop, main())


def test_the_waker_thread_ends_when_nobody_closed_the_client(loopback: Any) -> None:
    async def main() -> None:
        await reqtt.Client(loopback.url).connect()

    run(NoReaderLoop, main())
    gc.collect()
    eventually_blocking(lambda: native_threads("reqtt-wake") == 0)
    eventually_blocking(lambda: not loopback.loopback.connections())


def test_threads_and_descriptors_do_not_grow(loopback: Any, topic: str, loop_factory: Any) -> None:
    async def rounds(count: int) -> None:
        for n in range(count):
            async with reqtt.Requester(loopback.url) as req:
                if n % 20 == 0:
                    with pytest.raises(reqtt.NoMatchingSubscribers):
                        await req.request(topic, timeout=5)

    async def main() -> None:
        await rounds(5)
        gc.collect()
        await eventually(lambda: not loopback.loopback.connections())
        before = native_threads(), descriptors()
        await rounds(200)
        gc.collect()
        await eventually(
            lambda: native_threads() <= before[0] and descriptors() <= before[1],
            what=f"{before} became {native_threads()} threads, {descriptors()} descriptors",
        )

    run(loop_factory, main())


def test_failed_connects_leave_nothing_behind(loopback: Any, loop_factory: Any) -> None:
    loopback.loopback.refuse_connect(0x88)

    async def rounds(count: int) -> None:
        client = reqtt.Client(loopback.url)
        for _ in range(count):
            with pytest.raises(reqtt.ConnectError):
                await client.connect()

    async def main() -> None:
        await rounds(3)
        gc.collect()
        before = native_threads(), descriptors()
        await rounds(50)
        gc.collect()
        await eventually(lambda: native_threads() <= before[0] and descriptors() <= before[1])

    run(loop_factory, main())


async def test_nothing_refers_to_a_closed_client(loopback: Any, topic: str) -> None:
    gone = asyncio.Event()

    class Watched(reqtt.Client):
        def __del__(self) -> None:
            gone.set()

    async def use() -> None:
        async with Watched(loopback.url) as client, reqtt.Requester(client) as req:
            with pytest.raises(reqtt.NoMatchingSubscribers):
                await req.request(topic, timeout=5)

    await use()
    gc.collect()
    assert gone.is_set()


# --- awaiting


@pytest.fixture
async def silent(loopback: Any, topic: str, raw: Factory) -> str:
    """A topic whose subscriber never answers."""
    peer = await raw(loopback)
    await peer.subscribe(f"{topic}/silent")
    return f"{topic}/silent"


@pytest.fixture
async def echo(loopback: Any, topic: str, raw: Factory) -> str:
    peer = await raw(loopback)
    await peer.serve(f"{topic}/echo")
    return f"{topic}/echo"


async def test_a_call_is_awaited_once(loopback: Any, requester: Factory, echo: str) -> None:
    req = await requester(loopback)
    call = req.request(echo, "x", timeout=3)
    assert (await call).text == "x"
    with pytest.raises(RuntimeError, match="awaited before"):
        await call


async def test_a_call_awaited_by_two_tasks_belongs_to_the_first(
    loopback: Any, requester: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(loopback)
    call = req.request(topic, "x", timeout=5)

    async def wait() -> Any:
        return await call

    first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
    with pytest.raises(RuntimeError, match="another task awaits this already"):
        await second
    await peer.respond(await peer.receive(), "answer")
    assert (await asyncio.wait_for(first, 5)).text == "answer"


async def test_a_response_that_is_there_may_be_fetched_after_the_close(
    loopback: Any, requester: Factory, echo: str
) -> None:
    req = await requester(loopback)
    call = req.request(echo, "x", timeout=5)
    await eventually(lambda: req.client.stats().responses == 1 and not req.client.stats().pending)
    await req.close()
    assert (await call).text == "x"


async def test_a_call_is_a_coroutine_for_asyncio(loopback: Any, requester: Factory, echo: str) -> None:
    req = await requester(loopback)

    def ask(text: str) -> Any:
        return req.request(echo, text, timeout=3)

    assert [r.text for r in await asyncio.gather(ask("a"), ask("b"))] == ["a", "b"]
    assert (await asyncio.create_task(ask("task"))).text == "task"
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(str(n))) for n in range(3)]
    assert [task.result().text for task in tasks] == ["0", "1", "2"]
    assert (await asyncio.wait_for(ask("wait_for"), 3)).text == "wait_for"
    async with asyncio.timeout(3):
        assert (await ask("timeout")).text == "timeout"
    assert (await asyncio.shield(ask("shield"))).text == "shield"
    (first,) = [await done for done in asyncio.as_completed([ask("completed")])]
    assert first.text == "completed"
    call = ask("x")
    assert asyncio.iscoroutine(call)
    await call


async def test_gather_gives_the_exceptions_of_calls(
    loopback: Any, requester: Factory, echo: str, topic: str
) -> None:
    req = await requester(loopback)
    found = await asyncio.gather(
        req.request(f"{topic}/nobody", timeout=3), req.request(echo, "x", timeout=3), return_exceptions=True
    )
    assert isinstance(found[0], reqtt.NoMatchingSubscribers)
    assert found[1].text == "x"


async def test_a_shielded_call_goes_on_when_its_waiter_is_cancelled(
    loopback: Any, requester: Factory, raw: Factory, topic: str
) -> None:
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(loopback)
    inner = asyncio.ensure_future(req.request(topic, "x", timeout=3))
    outer = asyncio.ensure_future(asyncio.shield(inner))
    request = await peer.receive()
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    await peer.respond(request, "late enough")
    assert (await inner).text == "late enough"


async def test_wait_for_and_timeout_free_the_slot(loopback: Any, requester: Factory, silent: str) -> None:
    req = await requester(loopback)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(req.request(silent, timeout=30), 0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await req.request(silent, timeout=30)
    # The count is kept by the I/O thread, which hears of the cancellation a moment later.
    await eventually(lambda: req.client.stats().cancelled == 2)
    assert req.client.stats().pending == 0
    assert req.client.stats().timeouts == 0


@pytest.mark.parametrize("begun", [False, True])
async def test_a_call_that_is_dropped_frees_its_slot(
    loopback: Any, requester: Factory, silent: str, echo: str, begun: bool
) -> None:
    req = await requester(loopback, max_pending_requests=1)
    call = req.request(silent, timeout=30)
    await eventually(lambda: req.client.stats().pending == 1)
    if begun:
        iterator = call.__await__()
        next(iterator)
        del iterator
    del call
    await eventually(lambda: req.client.stats().pending == 0)
    assert (await req.request(echo, "next", timeout=3)).text == "next"


async def test_a_call_that_is_closed_frees_its_slot(loopback: Any, requester: Factory, silent: str) -> None:
    req = await requester(loopback)
    call = req.request(silent, timeout=30)
    await eventually(lambda: req.client.stats().pending == 1)
    call.close()
    await eventually(lambda: req.client.stats().pending == 0)
    with pytest.raises(RuntimeError):
        await call


async def test_a_task_cancelled_before_its_first_step_frees_the_slot(
    loopback: Any, requester: Factory, silent: str, echo: str
) -> None:
    req = await requester(loopback, max_pending_requests=1)
    task = asyncio.create_task(req.request(silent, timeout=30))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await req.request(echo, "next", timeout=3)).text == "next"
    assert req.client.stats().pending == 0


async def test_a_task_cancelled_while_it_waits_frees_the_slot(
    loopback: Any, requester: Factory, silent: str, echo: str
) -> None:
    req = await requester(loopback, max_pending_requests=1)
    task = asyncio.create_task(req.request(silent, timeout=30))
    await eventually(lambda: req.client.stats().in_flight == 0 and req.client.stats().pending == 1)
    task.cancel("no longer wanted")
    with pytest.raises(asyncio.CancelledError, match="no longer wanted"):
        await task
    assert (await req.request(echo, "next", timeout=3)).text == "next"
    assert req.client.stats().pending == 0


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_response_that_meets_a_cancellation_does_no_harm(
    loopback: Any, requester: Factory, raw: Factory, topic: str, echo: str, turns: int
) -> None:
    """The response is there already, and the task has got as far towards it as `turns` of the loop take."""
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(loopback)
    for n in range(1, 11):
        task = asyncio.create_task(req.request(topic, timeout=3))
        await peer.respond(await peer.receive(), "x", qos=0)
        # Without a turn of the loop.
        eventually_blocking(lambda n=n: req.client.stats().responses == n)
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert task.result().text == "x"
    assert (await req.request(echo, "next", timeout=3)).text == "next"
    assert req.client.stats().pending == 0


async def test_a_task_may_cancel_another_whose_response_came_with_its_own(
    loopback: Any, requester: Factory, raw: Factory, topic: str, echo: str
) -> None:
    peer = await raw(loopback)
    await peer.subscribe(topic)
    req = await requester(loopback)
    tasks: list[asyncio.Task[Any]] = []

    async def ask() -> Any:
        response = await req.request(topic, timeout=3)
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        return response

    tasks += [asyncio.create_task(ask()) for _ in range(4)]
    for request in [await peer.receive() for _ in tasks]:
        await peer.respond(request, "x", qos=0)
    # Without a turn of the loop: they come as one batch.
    eventually_blocking(lambda: req.client.stats().responses == 4)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0].text == "x"
    assert [task.cancelled() for task in tasks] == [False, True, True, True]
    assert (await req.request(echo, "next", timeout=3)).text == "next"
    assert req.client.stats().pending == 0


async def test_a_task_goes_on_in_its_own_context(loopback: Any, requester: Factory, echo: str) -> None:
    req = await requester(loopback)
    who: ContextVar[str] = ContextVar("who")

    async def ask(name: str) -> tuple[str, asyncio.Task[Any] | None]:
        who.set(name)
        await req.request(echo, name, timeout=3)
        return who.get(), asyncio.current_task()

    tasks = [asyncio.create_task(ask(str(n))) for n in range(10)]
    for n, task in enumerate(tasks):
        assert await task == (str(n), task)


def test_the_task_of_a_handler_has_its_name(loopback: Any, topic: str, loop_factory: Any) -> None:
    @reqtt.responder(topic)
    async def power() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def main() -> str:
        async with reqtt.Responder(loopback.url, [power]), reqtt.Requester(loopback.url) as req:
            return (await req.request(topic, timeout=5)).text

    name = run(loop_factory, main())
    assert name.startswith("responder ")
    assert name.endswith("power")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_loop_costs_no_other_request(
    loopback: Any, topic: str, loop_factory: Any, stop: type[BaseException]
) -> None:
    """Raised at a response by a task of several whose responses come together."""
    complaints: list[Any] = []
    tasks: list[asyncio.Task[Any]] = []

    async def begin() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        client = reqtt.Client(loopback.url)
        requester = reqtt.Requester(client)
        await requester.__aenter__()

        async def ask(n: int) -> str:
            response = await requester.request(topic, str(n), timeout=5)
            if n == 1:
                raise stop
            return response.text

        async with reqtt.Client(loopback.url) as other, other.subscribe(topic) as requests:
            tasks.extend(asyncio.create_task(ask(n)) for n in range(4))
            for request in [await anext(requests) for _ in tasks]:
                await other.publish(
                    request.response_topic, request.payload, correlation_data=request.correlation_data
                )
            eventually_blocking(lambda: client.stats().responses == 4)
            await asyncio.Event().wait()

    async def end() -> list[Any]:
        return await asyncio.gather(*tasks, return_exceptions=True)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(stop):
            runner.run(begin())
        outcomes = runner.run(end())
    assert [outcome for n, outcome in enumerate(outcomes) if n != 1] == ["0", "2", "3"]
    assert isinstance(outcomes[1], stop)
    assert not complaints


async def test_cancelling_a_publish_leaves_the_client_usable(
    loopback: Any, client: Factory, topic: str
) -> None:
    loopback.loopback.drop_puback(True)
    c = await client(loopback)
    task = asyncio.create_task(c.publish(topic))
    await eventually(lambda: c.stats().in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    loopback.loopback.drop_puback(False)
    assert (await c.publish(topic)).reason_code == 0x10


async def test_a_connect_that_is_cancelled_can_be_tried_again(loopback: Any) -> None:
    loopback.loopback.stall(30)
    client = reqtt.Client(loopback.url, connect_timeout=30)
    task = asyncio.create_task(client.connect())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    loopback.loopback.stall(0)
    assert (await client.connect()).reason_code == 0
    await client.close()


async def test_a_connect_that_is_cancelled_does_not_end_the_others(loopback: Any) -> None:
    loopback.loopback.stall(0.3)
    client = reqtt.Client(loopback.url)
    first, second, third = (asyncio.create_task(client.connect()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert [(await task).reason_code for task in (second, third)] == [0, 0]
    assert client.connected
    await client.close()


async def test_connects_at_the_same_time_share_one_connection(loopback: Any) -> None:
    client = reqtt.Client(loopback.url)
    async with asyncio.timeout(5):
        first, second, third = await asyncio.gather(client.connect(), client.connect(), client.connect())
    assert first.reason_code == second.reason_code == third.reason_code == 0
    assert len(loopback.loopback.connections()) == 1
    await client.close()


# --- who waits for the socket -----------------------------------------------------------------------


@pytest.mark.parametrize("loop", list(LOOPS))
def test_a_loop_that_is_kept_busy_loses_no_connection(mosquitto: Any, topic: str, loop: str) -> None:
    # Mosquitto ends a connection that is silent for 1.5 times its keep alive.
    async def main() -> None:
        async with (
            reqtt.Requester(mosquitto.url, keep_alive=1) as req,
            reqtt.Client(mosquitto.url, keep_alive=1) as idle,
        ):
            with pytest.raises(reqtt.NoMatchingSubscribers):
                await req.request(topic, timeout=5)
            waiting = req.request(topic, timeout=0.5, fail_fast=False)
            time.sleep(2.5)  # noqa: ASYNC251
            with pytest.raises(reqtt.ResponseTimeout):
                await waiting
            for client in (req.client, idle):
                assert (await client.publish(topic)).reason_code == 0x10
                assert client.stats().reconnects == 0

    run(LOOPS[loop], main())


def test_a_response_that_came_while_the_loop_was_busy_counts(mosquitto: Any, topic: str) -> None:
    async def main() -> None:
        async with reqtt.Requester(mosquitto.url) as req:
            with pytest.raises(reqtt.NoMatchingSubscribers):
                await req.request(topic, timeout=5)  # from now on the loop waits for the socket
            answering = threading.Event()

            def answer() -> None:
                async def serve() -> None:
                    @reqtt.responder(topic)
                    async def echo(body: bytes) -> bytes:
                        return body

                    async with reqtt.Responder(mosquitto.url, [echo]):
                        answering.set()
                        await asyncio.sleep(2)

                asyncio.run(serve())

            thread = threading.Thread(target=answer)
            thread.start()
            await asyncio.to_thread(answering.wait)
            waiting = req.request(topic, "x", timeout=1)
            time.sleep(1.5)  # noqa: ASYNC251
            assert (await waiting).text == "x"
            assert (await waiting_for(req, topic)).latency < 1
            thread.join()

    async def waiting_for(req: reqtt.Requester, topic: str) -> Any:
        return await req.request(topic, "y", timeout=1)

    asyncio.run(main())


@pytest.mark.parametrize("loop", list(LOOPS))
def test_messages_keep_their_order_whichever_thread_moves_them(mosquitto: Any, topic: str, loop: str) -> None:
    # Few at a time, then many, and so on: the socket goes from the loop to the I/O thread and back.
    async def main() -> None:
        async with (
            reqtt.Client(mosquitto.url) as sender,
            reqtt.Client(mosquitto.url) as receiver,
            receiver.subscribe(topic, max_queue=100_000) as messages,
        ):
            number = 0
            for burst in [1] * 10 + [200] + [1] * 20 + [50, 1, 300, 2, 1] * 5:
                published = []
                for _ in range(burst):
                    published.append(sender.publish(topic, str(number)))
                    number += 1
                await asyncio.gather(*published)
            got = [await asyncio.wait_for(anext(messages), 10) for _ in range(number)]
            assert [int(message.payload) for message in got] == list(range(number))

    run(LOOPS[loop], main())


def test_large_messages_do_not_stop_where_the_socket_takes_no_more(loopback: Any, topic: str) -> None:
    async def main() -> None:
        @reqtt.responder(topic)
        async def echo(body: bytes) -> bytes:
            return body

        async with reqtt.Responder(loopback.url, [echo]), reqtt.Requester(loopback.url) as req:
            for size in (1, 8 * 1024, 64 * 1024, 5_000_000, 1, 100_000):
                body = bytes([size % 251]) * size
                assert (await req.request(topic, body, timeout=10)).payload == body

    asyncio.run(main())
