"""Dependencies of handlers, the state of an application, and its lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

import reqtt
from reqtt import Depends, Request, RequestError, Responder, Response, Router, responder
from support.packets import SUBSCRIBE, UNSUBACK
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]


class Db:
    def __init__(self, name: str) -> None:
        self.name = name


# --- dependencies ---------------------------------------------------------------------------------


async def test_arguments_come_from_functions_and_each_runs_once_for_a_request(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    ran: list[str] = []

    def get_db(app: Responder) -> Db:
        ran.append("db")
        db: Db = app.state.db
        return db

    async def get_user(
        request: Request, client: reqtt.Client, db: Annotated[Db, Depends(get_db)], prefix: str = "user"
    ) -> str:
        await asyncio.sleep(0)
        ran.append("user")
        assert client is app.client
        return f"{prefix} {dict(request.user_properties)['user']} of {db.name}"

    async def get_lamp(lamp: int, *, db: Annotated[Db, Depends(get_db)]) -> tuple[int, str]:
        ran.append("lamp")
        return lamp, db.name

    User = Annotated[str, Depends(get_user)]

    @responder(f"{topic}/async/{{lamp}}")
    async def on_the_loop(
        lamp: Annotated[tuple[int, str], Depends(get_lamp)],
        body: str,
        *,
        user: User,
        db: Annotated[Db, Depends(get_db)],
    ) -> list[Any]:
        return [*lamp, body, user, db.name]

    @responder(f"{topic}/thread/{{lamp}}")
    def in_a_thread(user: User, lamp: Annotated[tuple[int, str], Depends(get_lamp)], body: str) -> list[Any]:
        return [*lamp, body, user]

    app = await serving(broker, on_the_loop, in_a_thread, state=SimpleNamespace(db=Db("house")))
    req = await requester(broker)
    properties = {"user": "me"}
    response = await req.request(f"{topic}/async/3", "ON", user_properties=properties)
    assert response.json() == [3, "house", "ON", "user me of house", "house"]
    assert sorted(ran) == ["db", "lamp", "user"]
    response = await req.request(f"{topic}/thread/4", "OFF", user_properties=properties)
    assert response.json() == [4, "house", "OFF", "user me of house"]
    assert sorted(ran) == ["db", "db", "lamp", "lamp", "user", "user"]


async def test_classes_methods_and_wrapped_functions_are_dependencies_too(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    class Page:
        def __init__(self, request: Request, number: int) -> None:
            self.text = f"page {number} of {request.text}"

    class House:
        async def name(self, number: int, *, street: str = "street") -> str:
            return f"{street} {number}"

        def __call__(self, client: reqtt.Client) -> bool:
            return client.connected

    def traced(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    async def inner(number: int) -> int:
        return number + 1

    house = House()

    @responder(f"{topic}/{{number}}")
    async def handler(
        page: Annotated[Page, Depends(Page)],
        name: Annotated[str, Depends(functools.partial(house.name, street="lane"))],
        connected: Annotated[bool, Depends(house)],
        more: Annotated[int, Depends(traced(inner))],
    ) -> list[Any]:
        return [page.text, name, connected, more]

    await serving(broker, handler)
    req = await requester(broker)
    assert (await req.request(f"{topic}/3", "book")).json() == ["page 3 of book", "lane 3", True, 4]


async def test_what_a_dependency_raises_is_the_answer_and_the_handler_does_not_run(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    ran: list[str] = []

    async def get_user(request: Request) -> str:
        raise RequestError(401, "who are you?")

    def get_lamp(lamp: int) -> int:
        return lamp

    @responder(f"{topic}/user")
    async def with_user(user: Annotated[str, Depends(get_user)]) -> None:
        ran.append(user)

    @responder(f"{topic}/lamp/{{lamp}}")
    async def with_lamp(number: Annotated[int, Depends(get_lamp)]) -> int:
        return number

    await serving(broker, with_user, with_lamp)
    req = await requester(broker)
    with pytest.raises(reqtt.RemoteError) as caught:
        await req.request(f"{topic}/user")
    assert (caught.value.status, caught.value.message, ran) == (401, "who are you?", [])
    with pytest.raises(reqtt.NotFound, match='no such lamp: "left"'):
        await req.request(f"{topic}/lamp/left")
    assert (await req.request(f"{topic}/lamp/7")).json() == 7


async def test_generators_go_on_after_the_response_in_reverse_order(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    order: list[str] = []
    answered = asyncio.Event()

    async def outer() -> AsyncIterator[str]:
        order.append("outer in")
        yield "outer"
        # Only the requester, which has the response, lets it go on.
        await answered.wait()
        order.append("outer out")

    def inner(above: Annotated[str, Depends(outer)]) -> Iterator[str]:
        order.append("inner in")
        yield f"{above} inner"
        order.append("inner out")

    @responder(topic)
    async def handler(value: Annotated[str, Depends(inner)]) -> str:
        order.append("handler")
        return value

    await serving(broker, handler)
    req = await requester(broker)
    assert (await req.request(topic)).text == "outer inner"
    assert "outer out" not in order
    answered.set()
    await eventually(lambda: "outer out" in order)
    assert order == ["outer in", "inner in", "handler", "inner out", "outer out"]


async def test_a_generator_sees_what_the_handler_raises_and_its_own_fault_is_logged(
    broker: Any, serving: Factory, requester: Factory, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[BaseException | None] = []

    async def transaction() -> AsyncIterator[str]:
        try:
            yield "transaction"
        except BaseException as error:
            seen.append(error)
            raise
        else:
            seen.append(None)

    def clumsy() -> Iterator[str]:
        yield "clumsy"
        raise OSError("cannot be closed")

    @responder(f"{topic}/raises")
    async def raises(value: Annotated[str, Depends(transaction)]) -> None:
        raise RequestError(409, "busy")

    @responder(f"{topic}/slow", timeout=0.05)
    async def slow(value: Annotated[str, Depends(transaction)]) -> None:
        await asyncio.Event().wait()

    @responder(f"{topic}/clumsy")
    async def fine(
        value: Annotated[str, Depends(clumsy)], other: Annotated[str, Depends(transaction)]
    ) -> str:
        return value

    await serving(broker, raises, slow, fine)
    req = await requester(broker)
    with pytest.raises(reqtt.RemoteError, match="busy"):
        await req.request(f"{topic}/raises")
    await eventually(lambda: len(seen) == 1)
    assert isinstance(seen[0], RequestError)
    with pytest.raises(reqtt.RemoteTimeout):
        await req.request(f"{topic}/slow")
    await eventually(lambda: len(seen) == 2)
    assert isinstance(seen[1], asyncio.CancelledError)
    assert caplog.records == []
    assert (await req.request(f"{topic}/clumsy")).text == "clumsy"
    await eventually(lambda: caplog.records)
    assert seen[2] is None
    [record] = caplog.records
    assert (record.name, record.levelno) == ("reqtt.responder", logging.ERROR)
    assert "a dependency failed while it was closed" in record.getMessage()


async def test_middleware_that_calls_twice_gets_fresh_values_and_all_are_closed(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    opened: list[int] = []
    closed: list[int] = []

    def numbered() -> Iterator[int]:
        opened.append(number := len(opened))
        yield number
        closed.append(number)

    @responder(topic)
    async def handler(number: Annotated[int, Depends(numbered)]) -> int:
        return number

    async def twice(request: Request, call_next: Any) -> Response:
        first, second = await asyncio.gather(call_next(request), call_next(request))
        return Response([first.json(), second.json()])

    await serving(broker, handler, middleware=[twice])
    req = await requester(broker)
    assert (await req.request(topic)).json() == [0, 1]
    await eventually(lambda: sorted(closed) == [0, 1])


async def test_a_call_of_the_next_layer_after_the_answer_opens_nothing(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    opened: list[str] = []
    late: list[asyncio.Task[Response]] = []
    go_on = asyncio.Event()

    def session() -> Iterator[str]:
        opened.append("session")
        yield "session"

    @responder(topic)
    async def handler(value: Annotated[str, Depends(session)]) -> str:
        return value

    async def hasty(request: Request, call_next: Any) -> Response:
        async def afterwards() -> Response:
            await go_on.wait()
            response: Response = await call_next(request)
            return response

        late.append(asyncio.create_task(afterwards()))
        return Response("at once")

    await serving(broker, handler, middleware=[hasty])
    req = await requester(broker)
    assert (await req.request(topic)).text == "at once"
    go_on.set()
    with pytest.raises(RuntimeError, match="answered already"):
        await late[0]
    assert opened == []


async def test_closing_waits_for_generators_and_they_have_the_state_of_the_app(
    broker: Any, requester: Factory, topic: str
) -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(app: Responder) -> AsyncIterator[None]:
        app.state.pool = "pool"
        yield
        order.append("pool closed")

    async def connection(app: Responder) -> AsyncIterator[str]:
        yield app.state.pool
        await go_on.wait()
        order.append("connection closed")

    @responder(topic)
    async def handler(pool: Annotated[str, Depends(connection)]) -> str:
        return pool

    app = Responder(broker.url, handler, lifespan=lifespan)
    req = await requester(broker)
    async with app:
        assert (await req.request(topic)).text == "pool"
        closing = asyncio.create_task(app.close())
        await eventually(lambda: not app._ids)
        assert order == []
        go_on.set()
        await closing
    assert order == ["connection closed", "pool closed"]


async def test_closing_ends_handlers_and_generators_that_hang_before_it_leaves_the_lifespan(
    broker: Any, requester: Factory, topic: str
) -> None:
    order: list[str] = []
    started, answered = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(app: Responder) -> AsyncIterator[None]:
        yield
        order.append("lifespan")

    async def quick() -> AsyncIterator[None]:
        try:
            yield
        finally:
            order.append("quick")

    async def hanging() -> AsyncIterator[None]:
        yield
        try:
            answered.set()
            await asyncio.Event().wait()
        finally:
            order.append("hanging")

    @responder(f"{topic}/handler")
    async def slow(value: Annotated[None, Depends(quick)]) -> None:
        started.set()
        await asyncio.Event().wait()

    @responder(f"{topic}/generator")
    async def fast(value: Annotated[None, Depends(hanging)]) -> str:
        return "done"

    req = await requester(broker)
    async with Responder(broker.url, [slow, fast], lifespan=lifespan) as app:
        assert (await req.request(f"{topic}/generator")).text == "done"
        waiting = asyncio.ensure_future(req.request(f"{topic}/handler"))
        await asyncio.gather(started.wait(), answered.wait())
        await app.close(timeout=0.1)
        with pytest.raises(reqtt.RemoteUnavailable):
            await waiting
    assert order == ["quick", "hanging", "lifespan"]


def test_what_nothing_can_fill_is_an_error_where_the_handler_is_decorated() -> None:
    def needs(thing: str) -> str:
        return thing

    def takes_all(*things: str) -> None: ...

    def wrong_capture(lamp: Callable[[], None]) -> None: ...

    def nested(value: Annotated[str, Depends(needs)]) -> None: ...

    for function, says in [
        (needs, r"dependency .*needs: argument 'thing': nothing fills it.*capture"),
        (takes_all, "cannot be filled"),
        (wrong_capture, "'lamp'.*does not convert"),
        (nested, r"nested: argument 'value': dependency .*needs: argument 'thing'"),
    ]:
        with pytest.raises(TypeError, match=says):

            @responder("a/{lamp}")
            async def handler(value: Annotated[Any, Depends(function)]) -> None: ...

    with pytest.raises(TypeError, match="Depends takes a function, not 3"):
        Depends(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="write Depends"):

        @responder("b")
        async def bare(value: Annotated[str, Depends]) -> None: ...

    with pytest.raises(TypeError, match="goes into the annotation"):

        @responder("c")
        async def as_default(value: Any = Depends(needs)) -> None: ...  # noqa: B008


def test_a_dependency_on_itself_is_refused() -> None:
    def one(value: Any) -> None: ...

    one.__annotations__["value"] = Annotated[Any, Depends(one)]
    with pytest.raises(TypeError, match="depends on itself"):

        @responder("d")
        async def handler(value: Annotated[Any, Depends(one)]) -> None: ...


# --- lifespan -------------------------------------------------------------------------------------


async def test_a_lifespan_is_entered_before_subscribing_and_left_after_draining(
    proxy: Any, broker: Any, requester: Factory, topic: str
) -> None:
    order: list[Any] = []
    started, go_on = asyncio.Event(), asyncio.Event()

    def noting(name: str) -> Any:
        @contextlib.asynccontextmanager
        async def lifespan(app: Responder) -> AsyncIterator[None]:
            order.append(f"{name} in")
            assert app.client.connected
            assert proxy.up(SUBSCRIBE) == []
            yield
            assert len(proxy.down(UNSUBACK)) == 1
            assert app.client.connected
            order.append(f"{name} out")

        return lifespan

    inner, outer = Router("in", lifespan=noting("inner")), Router(topic, lifespan=noting("outer"))

    @inner.responder("slow")
    async def slow() -> str:
        started.set()
        await go_on.wait()
        order.append("handler")
        return "done"

    outer.include(inner)
    req = await requester(broker)
    async with Responder(proxy.url, outer, lifespan=noting("app")) as app:
        waiting = asyncio.ensure_future(req.request(f"{topic}/in/slow"))
        await started.wait()
        closing = asyncio.create_task(app.close())
        await proxy.wait_for(lambda record: record.packet.type is UNSUBACK)
        go_on.set()
        await closing
        assert (await waiting).text == "done"
    assert order == ["app in", "outer in", "inner in", "handler", "inner out", "outer out", "app out"]


async def test_what_a_lifespan_raises_on_entering_surfaces_and_nothing_is_served(
    proxy: Any, topic: str
) -> None:
    left: list[str] = []

    @responder(topic)
    async def handler() -> None: ...

    @contextlib.asynccontextmanager
    async def fine(app: Responder) -> AsyncIterator[None]:
        yield
        left.append("fine")

    @contextlib.asynccontextmanager
    async def broken(app: Responder) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    site = Router(lifespan=broken)
    site.responder(topic)(handler)
    with pytest.raises(OSError, match="no database"):
        async with Responder(proxy.url, site, lifespan=fine):
            raise AssertionError
    assert proxy.up(SUBSCRIBE) == []
    assert left == []


async def test_a_refused_filter_leaves_the_lifespan(denying_broker: Any, topic: str) -> None:
    broker = denying_broker(subscribe=topic)
    left: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Responder) -> AsyncIterator[None]:
        yield
        left.append("left")

    @responder(topic)
    async def handler() -> None: ...

    with pytest.raises(reqtt.SubscribeError):
        async with Responder(broker.url, handler, lifespan=lifespan):
            raise AssertionError
    assert left == ["left"]


async def test_what_a_lifespan_raises_on_leaving_surfaces_and_the_client_is_closed(
    broker: Any, topic: str
) -> None:
    @responder(topic)
    async def handler() -> None: ...

    @contextlib.asynccontextmanager
    async def lifespan(app: Responder) -> AsyncIterator[None]:
        yield
        raise OSError("cannot flush")

    app = Responder(broker.url, handler, lifespan=lifespan)
    with pytest.raises(OSError, match="cannot flush"):
        async with app:
            pass
    assert not app.client.connected


async def test_a_lifespan_whose_task_fails_ends_serving_with_its_error(
    broker: Any, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    @responder(topic)
    async def handler() -> None: ...

    fail = asyncio.Event()

    async def background() -> None:
        await fail.wait()
        raise OSError("sensor is gone")

    @contextlib.asynccontextmanager
    async def lifespan(app: Responder) -> AsyncIterator[None]:
        # A task group is left in the task that entered it.
        async with asyncio.TaskGroup() as group:
            group.create_task(background())
            yield

    app = await Responder(broker.url, handler, lifespan=lifespan).__aenter__()
    serving = asyncio.create_task(app.serve_forever())
    fail.set()
    with pytest.raises(ExceptionGroup) as caught:
        await serving
    assert [str(error) for error in caught.value.exceptions] == ["sensor is gone"]
    assert [record.getMessage() for record in caplog.records] == [
        "the lifespan of a responder ended before it was left"
    ]
    assert not app.client.connected


async def test_cancelling_while_a_lifespan_is_entered_leaves_nothing(broker: Any, topic: str) -> None:
    entered = asyncio.Event()
    left: list[str] = []

    @responder(topic)
    async def handler() -> None: ...

    @contextlib.asynccontextmanager
    async def lifespan(app: Responder) -> AsyncIterator[None]:
        try:
            entered.set()
            await asyncio.Event().wait()
            yield
        finally:
            left.append("left")

    opening = asyncio.create_task(Responder(broker.url, handler, lifespan=lifespan).__aenter__())
    await entered.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert left == ["left"]


def test_what_is_no_lifespan_is_refused_at_once() -> None:
    @responder("a")
    async def handler() -> None: ...

    async def generator(app: Responder) -> AsyncIterator[None]:
        yield

    with pytest.raises(TypeError, match=r"put @contextlib\.asynccontextmanager on it"):
        Responder("mqtt://localhost", handler, lifespan=generator)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="app -> async context manager"):
        Responder("mqtt://localhost", handler, lifespan=contextlib.nullcontext())  # type: ignore[arg-type]


async def test_a_function_that_gives_no_context_manager_surfaces_on_entering(broker: Any, topic: str) -> None:
    @responder(topic)
    async def handler() -> None: ...

    with pytest.raises(TypeError, match="gave no async context manager, but 3"):
        async with Responder(broker.url, handler, lifespan=lambda app: 3):  # type: ignore[arg-type,return-value]
            raise AssertionError


# --- streams --------------------------------------------------------------------------------------


async def test_dependencies_of_a_stream_live_as_long_as_it_and_see_what_it_raises(
    broker: Any, serving: Factory, requester: Factory, topic: str
) -> None:
    order: list[Any] = []

    async def session(app: Responder) -> AsyncIterator[str]:
        try:
            yield app.state.name
        except RequestError as error:
            order.append(error.message)
            raise
        finally:
            order.append("closed")

    async def around(request: Request, call_next: Any) -> Response:
        request.state.user = "me"
        response: Response = await call_next(request)
        order.append("middleware")
        return response

    @responder(f"{topic}/fine")
    async def fine(name: Annotated[str, Depends(session)], request: Request, body: int) -> AsyncIterator[str]:
        for number in range(body):
            assert "closed" not in order
            yield f"{name} {request.state.user} {number}"

    @responder(f"{topic}/broken")
    async def broken(name: Annotated[str, Depends(session)]) -> AsyncIterator[str]:
        yield name
        raise RequestError(409, "busy")

    discovery = reqtt.Discovery("streams", prefix=f"{topic}/discovery")
    state = SimpleNamespace(name="house")
    await serving(broker, fine, broken, middleware=[around], state=state, discovery=discovery)
    req = await requester(broker)
    assert [item.text async for item in req.stream(f"{topic}/fine", 3)] == [f"house me {n}" for n in range(3)]
    await eventually(lambda: order == ["middleware", "closed"])
    order.clear()
    items = req.stream(f"{topic}/broken")
    assert (await anext(items)).text == "house"
    with pytest.raises(reqtt.RemoteError, match="busy"):
        await anext(items)
    await eventually(lambda: order == ["busy", "closed"])
    [found] = await reqtt.discover(req, prefix=f"{topic}/discovery", stats=True, timeout=2, stall=0.2)
    assert [(h.stats.requests, h.stats.errors) for h in found.handlers if h.stats] == [(1, 0), (1, 1)]
