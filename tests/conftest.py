"""Fixtures: brokers, the recording proxy, peers, and reqtt objects that are closed at the end of the test."""

from __future__ import annotations

import re
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from support.mosquitto import Mosquitto
from support.proxy import Proxy
from support.raw import RawClient

if TYPE_CHECKING:
    import reqtt

# By its entry point it is there anyway, but not in a source tree on PYTHONPATH.
pytest_plugins = ["pytest_reqtt"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(*rows): rows of the behavioural cases that the test shows")
    config.addinivalue_line(
        "markers", "mqtt(*numbers, side): mandatory statements of MQTT 5.0 that the test shows to be kept"
    )
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell does so to what it starts in the background; programs started here would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Broker:
    """What a test needs to know of a broker, whichever it is. `loopback` has the fault methods."""

    kind: str  # "loopback" | "mosquitto"
    url: str
    port: int
    loopback: Any = None
    mosquitto: Mosquitto | None = None


@pytest.fixture(scope="session")
def session_mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture
def mosquitto(session_mosquitto: Mosquitto) -> Broker:
    """The session's Mosquitto, with its defaults: use the `topic` fixture, and leave nothing retained."""
    return Broker("mosquitto", session_mosquitto.url, session_mosquitto.port, mosquitto=session_mosquitto)


@pytest.fixture
def loopback() -> Iterator[Broker]:
    """A loopback broker of the test's own."""
    from reqtt.testing import LoopbackBroker

    with LoopbackBroker() as broker:
        yield Broker("loopback", broker.url, broker.port, loopback=broker)


@pytest.fixture(params=["loopback", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def own_mosquitto() -> Iterator[Callable[..., Broker]]:
    """Starts a Mosquitto for this test alone, with the options of `support.mosquitto.Mosquitto`."""
    with ExitStack() as stack:

        def start(**options: Any) -> Broker:
            broker = stack.enter_context(Mosquitto(**options))
            return Broker("mosquitto", broker.url, broker.port, mosquitto=broker)

        yield start


@pytest.fixture
def own_loopback() -> Iterator[Callable[..., Broker]]:
    """Starts a loopback broker with options."""
    from reqtt.testing import LoopbackBroker

    with ExitStack() as stack:

        def start(**options: Any) -> Broker:
            broker = stack.enter_context(LoopbackBroker(**options))
            return Broker("loopback", broker.url, broker.port, loopback=broker)

        yield start


@pytest.fixture(params=["loopback", "mosquitto"])
def denying_broker(request: pytest.FixtureRequest) -> Callable[..., Broker]:
    """`denying_broker(subscribe=filter, publish=filter)`: a broker that answers 0x87 there."""

    def start(*, subscribe: str | None = None, publish: str | None = None) -> Broker:
        if request.param == "mosquitto":
            found: Broker = request.getfixturevalue("own_mosquitto")(
                deny_subscribe=[subscribe] if subscribe else [], deny_publish=[publish] if publish else []
            )
            return found
        broker: Broker = request.getfixturevalue("own_loopback")()
        if subscribe:
            broker.loopback.refuse_subscribe(0x87, filter=subscribe)
        if publish:
            broker.loopback.refuse_publish(0x87, filter=publish)
        return broker

    # Resolved here: a fixture can not be set up from inside the test's running loop.
    request.getfixturevalue(f"own_{request.param}")
    return start


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic that no other test uses."""
    name = re.sub(r"\W+", "-", request.node.originalname or request.node.name)[:40]
    return f"{name}/{secrets.token_hex(4)}"


@pytest.fixture
async def make_proxy() -> AsyncIterator[Callable[[Broker | int], Awaitable[Proxy]]]:
    async with AsyncExitStack() as stack:

        async def start(broker: Broker | int) -> Proxy:
            port = broker if isinstance(broker, int) else broker.port
            return await stack.enter_async_context(Proxy(port))

        yield start


@pytest.fixture
async def proxy(broker: Broker, make_proxy: Callable[[Broker | int], Awaitable[Proxy]]) -> Proxy:
    """In front of `broker`. Nothing that passes it may be malformed."""
    return await make_proxy(broker)


@pytest.fixture
async def raw() -> AsyncIterator[Callable[..., Awaitable[RawClient]]]:
    """`peer = await raw(broker, **RawClient.connect options)`: straight to the broker, past the proxy."""
    async with AsyncExitStack() as stack:

        async def connect(broker: Broker | Proxy, **options: Any) -> RawClient:
            return await stack.enter_async_context(await RawClient.connect(broker.port, **options))

        yield connect


@pytest.fixture
async def peer(broker: Broker, raw: Callable[..., Awaitable[RawClient]], topic: str) -> RawClient:
    """Straight on the broker, and subscribed to `topic`: a test answers what it receives."""
    found = await raw(broker)
    await found.subscribe(topic)
    return found


@pytest.fixture
async def client(
    make_proxy: Callable[[Broker | int], Awaitable[Proxy]],
) -> AsyncIterator[Callable[..., Awaitable[reqtt.Client]]]:
    """`await client(proxy, **options)`: a connected Client."""
    import reqtt

    async with AsyncExitStack() as stack:

        async def connect(where: Broker | Proxy | str, **options: Any) -> reqtt.Client:
            url = where if isinstance(where, str) else where.url
            return await stack.enter_async_context(reqtt.Client(url, **options))

        yield connect


@pytest.fixture
async def requester(
    make_proxy: Callable[[Broker | int], Awaitable[Proxy]],
) -> AsyncIterator[Callable[..., Awaitable[reqtt.Requester]]]:
    """`await requester(proxy, **options)`: a connected Requester, on a Client or with one of its own."""
    import reqtt

    async with AsyncExitStack() as stack:

        async def connect(where: Broker | Proxy | reqtt.Client | str, **options: Any) -> reqtt.Requester:
            target = where if isinstance(where, str | reqtt.Client) else where.url
            return await stack.enter_async_context(reqtt.Requester(target, **options))

        yield connect


@pytest.fixture
async def serving(
    make_proxy: Callable[[Broker | int], Awaitable[Proxy]],
) -> AsyncIterator[Callable[..., Awaitable[reqtt.Responder]]]:
    """`await serving(proxy, handler, ..., **options)`: a Responder whose filters have been acknowledged."""
    import reqtt

    async with AsyncExitStack() as stack:

        async def start(
            where: Broker | Proxy | reqtt.Client | str, *handlers: Any, **options: Any
        ) -> reqtt.Responder:
            target = where if isinstance(where, str | reqtt.Client) else where.url
            return await stack.enter_async_context(reqtt.Responder(target, list(handlers), **options))

        yield start
