"""The testing kit as its users have it: their test files, run by pytest under each plugin for async tests."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = "pytester"

HANDLERS = """
import asyncio
from pathlib import Path

import pytest
import reqtt
from reqtt import Request, RequestError, responder

{mark}

@responder("cmnd/{{lamp}}/power")
async def power(lamp: str, body: str) -> str:
    if lamp == "cellar":
        raise RequestError(404, "no such lamp", data=[lamp])
    return f"{{lamp}} {{body}}"

"""
STRICT = "pytestmark = pytest.mark.asyncio"
SESSION_LOOP = 'pytestmark = pytest.mark.asyncio(loop_scope="session")'
ANYIO = """
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
# Which plugin runs the tests, how the file is marked, and how async fixtures are written there.
RUNNERS = {
    "asyncio-auto": (["-p", "no:anyio", "--asyncio-mode=auto"], "", "pytest.fixture"),
    "asyncio-strict": (["-p", "no:anyio", "--asyncio-mode=strict"], STRICT, "ASYNCIO.fixture"),
    "asyncio-session-loop": (
        ["--asyncio-mode=strict"],
        SESSION_LOOP,
        'ASYNCIO.fixture(loop_scope="session")',
    ),
    "anyio": (["-p", "no:asyncio"], ANYIO, "pytest.fixture"),
    "anyio-beside-asyncio": (["--asyncio-mode=strict"], ANYIO, "pytest.fixture"),
}

Run = Callable[..., pytest.RunResult]


@pytest.fixture(params=RUNNERS)
def run(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Run:
    """`run(source)`: the handlers above and these tests, in a process of their own."""
    options, mark, fixture = RUNNERS[request.param]

    def run(source: str, *more: str) -> pytest.RunResult:
        source = textwrap.dedent(source).replace("@async_fixture", f"@{fixture}")
        if "ASYNCIO." in source:
            source = "import pytest_asyncio as ASYNCIO\n" + source
        pytester.makepyfile(HANDLERS.format(mark=mark) + source)
        return pytester.runpytest_subprocess(*plugin(), "-p", "no:cacheprovider", *options, *more)

    pytester.makeini(
        "[pytest]\nfilterwarnings = error\naddopts = --strict-markers\n"
        + ("asyncio_default_fixture_loop_scope = function\n" if "no:asyncio" not in options else "")
    )
    return run


def plugin() -> list[str]:
    """Installed, it is there by its entry point."""
    found = entry_points(group="pytest11", name="pytest_reqtt")
    return [] if found else ["-p", "pytest_reqtt"]


def test_fixtures_work_under_every_plugin(run: Run) -> None:
    result = run("""
    async def test_request(requester, respond_with, mqtt_broker):
        app = await respond_with(power)
        assert isinstance(requester, reqtt.Requester)
        assert isinstance(app, reqtt.Responder)
        assert (await requester.request("cmnd/lamp/power", "ON")).text == "lamp ON"
        with pytest.raises(reqtt.NotFound) as caught:
            await requester.request("cmnd/cellar/power", "ON")
        assert caught.value.data == ["cellar"]
        assert mqtt_broker.connections() == ["requester", "responder"]

    async def test_a_block_drains_at_its_end(requester, respond_with):
        async with respond_with(power):
            assert (await requester.request("cmnd/lamp/power", "ON")).text == "lamp ON"
        with pytest.raises(reqtt.NoMatchingSubscribers):
            await requester.request("cmnd/lamp/power", "ON")

    @async_fixture
    async def lamp(requester, respond_with):
        await respond_with(power)
        await requester.request("cmnd/lamp/power", "set up")
        yield "lamp"
        # The kit's fixtures outlive those that use them.
        assert (await requester.request("cmnd/lamp/power", "torn down")).text == "lamp torn down"

    async def test_async_fixtures_may_use_them(lamp, requester):
        assert (await requester.request(f"cmnd/{lamp}/power", "ON")).text == "lamp ON"

    class TestInAClass:
        async def test_method(self, requester, respond_with):
            await respond_with(power, client_id="lamps")
            assert (await requester.request("cmnd/lamp/power", "ON")).text == "lamp ON"

    async def test_the_end_does_not_wait_for_a_handler_that_hangs(requester, respond_with):
        cancelled = False

        @responder("slow")
        async def slow() -> None:
            await asyncio.Event().wait()

        await respond_with(slow)
        with pytest.raises(reqtt.ResponseTimeout):
            await requester.request("slow", timeout=0.1)

    async def test_nothing_is_left_behind():
        def brokers():
            return [path for path in Path("/proc/self/task").glob("*/comm") if "loopback" in path.read_text()]

        assert brokers() == []
        assert [task for task in asyncio.all_tasks() if "reqtt" in repr(task)] == []
    """)
    result.assert_outcomes(passed=6)
    assert result.duration < 25


def test_faults_on_demand(run: Run) -> None:
    result = run("""
    import time

    ENDED = []
    KEPT = {"clean_start": False, "session_expiry_interval": 60}

    async def test_cut(requester, respond_with, mqtt_faults):
        await respond_with(power, **KEPT)
        await requester.request("cmnd/lamp/power", "ON")
        mqtt_faults.cut()
        assert (await requester.request("cmnd/lamp/power", "OFF", fail_fast=False)).text == "lamp OFF"
        assert requester.client.stats().reconnects == 1

    async def test_stall_does_not_hold_up_the_end(requester, mqtt_faults):
        mqtt_faults.stall(30)
        with pytest.raises(reqtt.ResponseTimeout):
            await requester.request("cmnd/lamp/power", "ON", timeout=0.2)
        ENDED.append(time.monotonic())

    async def test_refusals(requester, mqtt_faults):
        assert time.monotonic() - ENDED[0] < 1.5
        mqtt_faults.refuse_subscribe(0x87)
        with pytest.raises(reqtt.SubscribeError) as subscribe:
            await requester.request("cmnd/lamp/power")
        assert subscribe.value.reason_code == 0x87
        mqtt_faults.refuse_subscribe(None)
        mqtt_faults.refuse_publish(0x97, "cmnd/#")
        with pytest.raises(reqtt.PublishError) as publish:
            await requester.request("cmnd/lamp/power")
        assert publish.value.reason_code == 0x97

    async def test_refused_connection(mqtt_broker, mqtt_faults):
        mqtt_faults.refuse_connect(0x89)
        with pytest.raises(reqtt.ConnectError) as caught:
            async with reqtt.Client(mqtt_broker.url, reconnect=None):
                pass
        assert caught.value.reason_code == 0x89

    async def test_redeliver(requester, respond_with, mqtt_faults, mqtt_broker):
        runs, started, go_on = [], asyncio.Event(), asyncio.Event()

        @responder("once")
        async def once(request: Request) -> str:
            runs.append(request.dup)
            started.set()
            await go_on.wait()
            return "done"

        await respond_with(once)
        waiting = asyncio.ensure_future(requester.request("once"))
        await started.wait()
        mqtt_faults.redeliver()
        while len([it for it in mqtt_broker.packets("PUBLISH") if it.packet.dup]) == 0:
            await asyncio.sleep(0.01)
        go_on.set()
        assert (await waiting).text == "done"
        assert runs == [False]

    async def test_lost_session(requester, respond_with, mqtt_faults, mqtt_broker):
        await respond_with(power)
        before = mqtt_broker.subscriptions()
        mqtt_faults.lose_session()
        async with asyncio.timeout(10):
            while mqtt_broker.subscriptions() != before:
                await asyncio.sleep(0.01)
        assert (await requester.request("cmnd/lamp/power", "ON")).text == "lamp ON"

    async def test_response_information(requester, respond_with, mqtt_faults, mqtt_broker):
        await respond_with(power, **KEPT)
        response = await requester.request("cmnd/lamp/power", "1")
        assert response.topic.startswith("clients/requester/responses/")
        mqtt_faults.response_information("rr/abc")
        events = requester.client.events()
        mqtt_faults.cut()
        async for event in events:
            if isinstance(event, reqtt.Connected):
                break
        response = await requester.request("cmnd/lamp/power", "2", fail_fast=False)
        assert response.topic.startswith("rr/abc/")
    """)
    result.assert_outcomes(passed=7)


@pytest.mark.parametrize("run", ["asyncio-auto", "anyio"], indirect=True)
def test_each_test_has_a_broker_of_its_own_with_the_options_it_wants(run: Run) -> None:
    result = run("""
    ports = []

    @pytest.mark.mqtt_broker(receive_maximum=3, username="me", password="secret")
    @pytest.mark.parametrize("n", range(2))
    async def test_options(mqtt_broker, n):
        ports.append(mqtt_broker.port)
        async with reqtt.Client(mqtt_broker.url, username="me", password="secret") as client:
            assert client.connack.receive_maximum == 3
            assert mqtt_broker.stats()["received_by_type"]["CONNECT"] == 1
        with pytest.raises(reqtt.ConnectError):
            await reqtt.Client(mqtt_broker.url).connect()
        assert "secret" not in mqtt_broker.snapshot()
        assert "secret" not in repr(mqtt_broker.packets())
    """)
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("run", ["asyncio-strict", "anyio"], indirect=True)
def test_parallel_workers_do_not_meet(run: Run) -> None:
    result = run(
        """
    @pytest.mark.parametrize("n", range(20))
    async def test_request(requester, respond_with, mqtt_broker, n):
        await respond_with(power)
        assert (await requester.request("cmnd/lamp/power", str(n))).text == f"lamp {n}"
        assert mqtt_broker.connections() == ["requester", "responder"]
    """,
        "-n",
        "2",
    )
    result.assert_outcomes(passed=20)


def test_the_tests_in_the_docs_pass(pytester: pytest.Pytester) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "testing.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    source = "".join(block for block in blocks if "def test_" in block)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n")
    pytester.makepyfile(source)
    result = pytester.runpytest_subprocess(*plugin(), "-p", "no:cacheprovider")
    result.assert_outcomes(passed=source.count("def test_"))
    assert source.count("def test_") >= 7


def test_failed_test_shows_what_passed(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nasyncio_mode = auto\n")
    pytester.makepyfile(
        HANDLERS.format(mark="")
        + textwrap.dedent("""
        async def test_power(requester, respond_with):
            await respond_with(power)
            assert (await requester.request("cmnd/lamp/power", "ON")).text == "OFF"
        """)
    )
    result = pytester.runpytest_subprocess(*plugin(), "-p", "no:cacheprovider", "-p", "no:anyio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*MQTT packets*", 'requester -> PUBLISH cmnd/lamp/power "ON" qos=1 *'])


@pytest.mark.parametrize(
    ("source", "options", "text"),
    [
        (
            "def test_sync(requester): pass",
            ["--asyncio-mode=auto"],
            "requester is for `async def` tests * use mqtt_broker.url",
        ),
        (
            "@pytest.mark.anyio\n@pytest.mark.parametrize('anyio_backend', ['trio'])\n"
            "async def test_trio(respond_with, anyio_backend): pass",
            ["-p", "no:asyncio"],
            "reqtt runs on asyncio: have a fixture anyio_backend that returns 'asyncio'",
        ),
        (
            "@pytest.mark.mqtt_broker('loud')\ndef test_marker(mqtt_broker): pass",
            ["-p", "no:asyncio"],
            "*takes keyword arguments, those of LoopbackBroker",
        ),
    ],
    ids=["sync test", "trio", "marker"],
)
def test_wrong_use_is_told(pytester: pytest.Pytester, source: str, options: list[str], text: str) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(f"import pytest\n{source}")
    result = pytester.runpytest_subprocess(*plugin(), "-p", "no:cacheprovider", *options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{text}*"])


def test_broker_is_there_without_a_plugin_for_async_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
    import asyncio
    import reqtt

    @reqtt.responder("ping")
    async def ping() -> str:
        return "pong"

    def test_ping(mqtt_broker):
        async def main():
            async with reqtt.Responder(mqtt_broker.url, [ping]), reqtt.Requester(mqtt_broker.url) as req:
                return (await req.request("ping")).text
        assert asyncio.run(main()) == "pong"
    """)
    options = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist", "-p", "no:cacheprovider")
    pytester.runpytest_subprocess(*plugin(), *options).assert_outcomes(passed=1)


def test_a_run_that_uses_no_fixture_imports_nothing_of_reqtt(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
    import sys

    def test_imports():
        assert [name for name in sys.modules if name.partition(".")[0] == "reqtt"] == []
    """)
    pytester.runpytest_subprocess(*plugin(), "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_plugin_is_declared_and_packaged() -> None:
    import tomllib

    root = Path(__file__).resolve().parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"pytest_reqtt": "pytest_reqtt"}
    assert set(project["tool"]["maturin"]["python-packages"]) == {"reqtt", "pytest_reqtt"}


def test_plugin_itself_is_imported_in_a_moment() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules);"
        " import pytest_reqtt; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["pytest_reqtt"]
