"""The pytest plugin of reqtt: a broker for each test, a requester and responders on it, and faults.

Loaded by every pytest run where reqtt is installed, so it imports nothing of reqtt until a fixture is used;
a package of its own, because importing one inside `reqtt` would import all of that. Async fixtures are set up
by whichever plugin runs the test: pytest-asyncio, in either mode and with any loop scope, or anyio's.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from reqtt import Requester
    from reqtt.testing import Faults, LoopbackBroker, RespondWith

_BROKER = pytest.StashKey["LoopbackBroker"]()
_ASYNCIO = "reqtt-asyncio"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "mqtt_broker(**options): what LoopbackBroker of the fixture mqtt_broker is made with"
    )
    try:
        config.getini("asyncio_mode")
    except ValueError:
        return
    config.pluginmanager.register(_asyncio_fixtures(), _ASYNCIO)


@pytest.fixture
def mqtt_broker(request: pytest.FixtureRequest) -> Iterator[LoopbackBroker]:
    """A LoopbackBroker of this test's own, on a free port, that records its packets.

    `@pytest.mark.mqtt_broker(receive_maximum=20)` gives it options. If the test fails, its report shows what
    passed.
    """
    from reqtt.testing import LoopbackBroker

    options: dict[str, Any] = {"record": True}
    for marker in reversed(list(request.node.iter_markers("mqtt_broker"))):
        if marker.args:
            raise pytest.UsageError(
                "@pytest.mark.mqtt_broker takes keyword arguments, those of LoopbackBroker"
            )
        options.update(marker.kwargs)
    with LoopbackBroker(**options) as broker:
        request.node.stash[_BROKER] = broker
        yield broker
        del request.node.stash[_BROKER]


@pytest.fixture
def mqtt_faults(mqtt_broker: LoopbackBroker) -> Faults:
    """What goes wrong with mqtt_broker on demand: `cut()`, `stall(seconds)`, `refuse_publish(0x87)`, ..."""
    from reqtt.testing import Faults

    return Faults(mqtt_broker)


@pytest.fixture
def requester(request: pytest.FixtureRequest) -> Requester:
    """An open Requester on mqtt_broker, as client `requester`."""
    found: Requester = request.getfixturevalue(_runner_of(request) + "_requester")
    return found


@pytest.fixture
def respond_with(request: pytest.FixtureRequest) -> RespondWith:
    """`await respond_with(*handlers)`: they answer on mqtt_broker until the test ends."""
    found: RespondWith = request.getfixturevalue(_runner_of(request) + "_respond_with")
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    broker = item.stash.get(_BROKER, None)
    if broker is not None and report.failed and report.when == "call":
        # It may have been stopped by the test.
        with contextlib.suppress(RuntimeError):
            report.sections.append(("MQTT packets", broker.snapshot()))
    return report


# --- on the loop of the test ------------------------------------------------------------------------


async def _open_requester(mqtt_broker: LoopbackBroker) -> AsyncIterator[Requester]:
    from reqtt import Requester

    async with Requester(mqtt_broker.url, client_id="requester") as requester:
        yield requester
        _mend(mqtt_broker)


async def _open_respond_with(mqtt_broker: LoopbackBroker) -> AsyncIterator[RespondWith]:
    from reqtt.testing import RespondWith

    async with AsyncExitStack() as stack:
        yield RespondWith(mqtt_broker.url, stack)
        _mend(mqtt_broker)


def _mend(broker: LoopbackBroker) -> None:
    """A broker that stands still would hold up the DISCONNECT, for 2 s."""
    with contextlib.suppress(RuntimeError):
        broker.stall(0)


# anyio sets up any async fixture of a test that it runs.
_reqtt_anyio_requester = pytest.fixture(_open_requester)
_reqtt_anyio_respond_with = pytest.fixture(_open_respond_with)


def _asyncio_fixtures() -> types.ModuleType:
    """The same for pytest-asyncio, which wants its own decorator, and to know the scope of the loop."""
    import pytest_asyncio

    fixtures = types.ModuleType(_ASYNCIO)
    for scope in ("function", "class", "module", "package", "session"):
        for name, function in (("requester", _open_requester), ("respond_with", _open_respond_with)):
            # A function of its own: the decorator marks what it is given.
            copy = types.FunctionType(function.__code__, function.__globals__, function.__name__)
            setattr(fixtures, f"_reqtt_{scope}_{name}", pytest_asyncio.fixture(copy, loop_scope=scope))
    return fixtures


def _runner_of(request: pytest.FixtureRequest) -> str:
    """The beginning of the name of the fixtures that live on the loop of this test."""
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        if (backend if isinstance(backend, str) else backend[0]) != "asyncio":
            pytest.fail(
                "reqtt runs on asyncio: have a fixture anyio_backend that returns 'asyncio'", pytrace=False
            )
        return "_reqtt_anyio"
    if request.config.pluginmanager.hasplugin(_ASYNCIO):
        import pytest_asyncio

        if pytest_asyncio.is_async_test(request.node):
            marker = request.node.get_closest_marker("asyncio")
            scope = marker.kwargs.get("loop_scope") if marker is not None else None
            return f"_reqtt_{scope or request.config.getini('asyncio_default_test_loop_scope')}"
    pytest.fail(
        f"{request.fixturename} is for `async def` tests that pytest-asyncio (marked with"
        " pytest.mark.asyncio, or in auto mode) or anyio (pytest.mark.anyio) runs; in other tests use"
        " mqtt_broker.url",
        pytrace=False,
    )
