"""Who the client is: credentials that change, SCRAM and other authenticators, and what is never told."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import struct
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import reqtt
from conftest import Broker
from support import client_must
from support.gate import AGAIN, CONTINUE, Gate, Link, ScramDoor, Script
from support.mosquitto import Mosquitto
from support.packets import AUTH, CONNACK, CONNECT, DISCONNECT, PUBLISH, Packet, encode
from support.proxy import Proxy
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]
QUICK = reqtt.Reconnect(initial=0.02, max=0.1, jitter=0)
USER, PASSWORD, TOKENS = "panel-7", "hunter2-the-password", ("token-one", "token-two", "token-three")


async def next_event(events: AsyncIterator[Any], kind: type, timeout: float = 5) -> Any:
    """The next event of this kind."""
    async with asyncio.timeout(timeout):
        while not isinstance(event := await anext(events), kind):
            pass
    return event


async def no_event(events: AsyncIterator[Any], kind: type) -> None:
    """None of this kind until the client is closed."""
    assert not [event async for event in events if isinstance(event, kind)]


@pytest.fixture
async def gate(session_mosquitto: Mosquitto) -> AsyncIterator[Callable[[Script], Awaitable[Gate]]]:
    """`await gate(script)`: a door in front of the session's Mosquitto."""
    async with AsyncExitStack() as stack:

        async def start(script: Script) -> Gate:
            return await stack.enter_async_context(Gate(script, session_mosquitto.port))

        yield start


async def refused(client: reqtt.Client, match: str) -> reqtt.ConnectError:
    """The error of a connect that fails; the connection never counts as up."""
    events = client.events()
    with pytest.raises(reqtt.ConnectError, match=match) as caught:
        await client.connect()
    assert not client.connected
    assert client.connack is None
    await client.close()
    await no_event(events, reqtt.Connected)
    return caught.value


# --- credentials that are asked for


@pytest.fixture(scope="module")
def guarded() -> Iterator[Broker]:
    with Mosquitto(users={**{f"user-{token}": token for token in TOKENS}, USER: PASSWORD}) as broker:
        yield Broker("mosquitto", broker.url, broker.port, mosquitto=broker)


def plain(values: Iterator[Any]) -> Callable[[], Any]:
    return lambda: next(values)


def coroutine(values: Iterator[Any]) -> Callable[[], Any]:
    async def give() -> Any:
        await asyncio.sleep(0)
        return next(values)

    return give


def around(values: Iterator[Any]) -> Callable[[], Any]:
    give = coroutine(values)
    return lambda: give()


def partial(values: Iterator[Any]) -> Callable[[], Any]:
    async def give(which: Iterator[Any]) -> Any:
        return next(which)

    return functools.partial(give, values)


KINDS = pytest.mark.parametrize("asked", [plain, coroutine, around, partial], ids=lambda kind: kind.__name__)


@KINDS
async def test_credentials_are_asked_for_before_each_connect(
    guarded: Broker, make_proxy: Factory, client: Factory, asked: Any
) -> None:
    proxy: Proxy = await make_proxy(guarded)
    c = await client(
        proxy,
        username=asked(iter([f"user-{token}" for token in TOKENS])),
        password=asked(iter(TOKENS)),
        reconnect=QUICK,
    )
    events = c.events()
    for _ in TOKENS[1:]:
        proxy.cut()
        await next_event(events, reqtt.Connected)
    seen = [(record.packet.username, record.packet.password) for record in proxy.up(CONNECT)]
    assert seen == [(f"user-{token}", token.encode()) for token in TOKENS]


@pytest.mark.parametrize("password", [TOKENS[0], TOKENS[0].encode()], ids=["str", "bytes"])
async def test_one_of_the_two_may_be_asked_for(guarded: Broker, client: Factory, password: Any) -> None:
    user = f"user-{TOKENS[0]}"
    assert (await client(guarded, username=user, password=lambda: password)).connected
    assert (await client(guarded, username=lambda: user, password=password)).connected
    url = guarded.url.replace("://", f"://{user}:wrong@")
    assert (await client(url, password=lambda: password)).connected


@KINDS
async def test_a_refused_token_is_an_error_and_the_next_connect_asks_again(
    guarded: Broker, make_proxy: Factory, asked: Any
) -> None:
    proxy: Proxy = await make_proxy(guarded)
    client = reqtt.Client(proxy.url, username=USER, password=asked(iter(["expired", PASSWORD])))
    with pytest.raises(reqtt.ConnectError, match="refused CONNECT") as caught:
        await client.connect()
    assert caught.value.reason_code in (0x86, 0x87)
    await client.connect()
    assert client.connected
    await client.close()
    assert [record.packet.password for record in proxy.up(CONNECT)] == [b"expired", PASSWORD.encode()]


async def test_a_token_that_is_refused_on_a_reconnect_is_asked_for_again(
    guarded: Broker, make_proxy: Factory, client: Factory
) -> None:
    proxy: Proxy = await make_proxy(guarded)
    tokens = iter([PASSWORD, "expired", "expired", PASSWORD])
    c = await client(proxy, username=USER, password=lambda: next(tokens), reconnect=QUICK)
    events = c.events()
    proxy.cut()
    await next_event(events, reqtt.Connected)
    assert len(proxy.up(CONNECT)) == 4


class VaultDown(Exception):
    pass


def raises() -> str:
    raise VaultDown("the vault is sealed")


async def raises_later() -> str:
    return raises()


def stops() -> str:
    raise StopIteration


async def cancelled() -> str:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("argument", "asked", "match"),
    [
        ("password", raises, r"password= raised VaultDown: the vault is sealed"),
        ("password", raises_later, r"password= raised VaultDown: the vault is sealed"),
        ("username", raises, r"username= raised VaultDown: the vault is sealed"),
        ("password", stops, r"password= raised .*StopIteration"),
        ("password", cancelled, "cancelled"),
        ("password", lambda: None, "password= gave NoneType: have it return str or bytes"),
        ("password", lambda: 5671, "password= gave int: have it return str or bytes"),
        ("username", lambda: b"panel", "username= gave bytes: have it return str"),
        ("password", lambda: "x" * 65_536, "password has 65536 bytes: 65535 at most"),
        ("username", lambda: "x" * 65_536, "username has 65536 bytes: 65535 at most"),
        ("username", lambda: "pan\0el", "username holds a NUL"),
        ("username", lambda: "pan\ud800el", "username= gave a text with a lone surrogate"),
    ],
)
async def test_what_gives_no_credentials_is_a_clear_error_and_nothing_is_sent(
    guarded: Broker, make_proxy: Factory, argument: str, asked: Any, match: str
) -> None:
    proxy: Proxy = await make_proxy(guarded)
    right = {"username": USER, "password": PASSWORD}
    answers = iter([asked])

    def first_this_then_right() -> Any:
        return next(answers, lambda: right[argument])()

    client = reqtt.Client(proxy.url, **{**right, argument: first_this_then_right})
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectError, match=match) as caught:
        await client.connect()
    assert time.monotonic() - began < 2
    assert "nothing was sent" in str(caught.value)
    assert caught.value.reason_code is None
    assert caught.value.__cause__ is None
    assert not proxy.records
    await client.connect()
    assert client.connected
    await client.close()


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_what_hangs_ends_with_connect_timeout(guarded: Broker, make_proxy: Factory, kind: str) -> None:
    proxy: Proxy = await make_proxy(guarded)
    go, cancellations, hanging = threading.Event(), [], True

    def blocks() -> str:
        if hanging:
            go.wait(30)
        return PASSWORD

    async def waits() -> str:
        if hanging:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancellations.append(1)
                raise
        return PASSWORD

    asked = blocks if kind == "def" else waits
    client = reqtt.Client(proxy.url, username=USER, password=asked, connect_timeout=0.3)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.ensure_future(count_turns())
    began = time.monotonic()
    try:
        with pytest.raises(reqtt.ConnectError, match=r"no answer within 0\.3 s \(connect_timeout\)"):
            await client.connect()
        assert 0.29 <= time.monotonic() - began < 1.3
        assert turns > 5, "the loop stood still"
        assert not proxy.records
        hanging = False
        await client.connect()
        assert client.connected
        await client.close()
        assert cancellations == ([] if kind == "def" else [1])
    finally:
        go.set()
        counting.cancel()


async def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(
    guarded: Broker, make_proxy: Factory, client: Factory
) -> None:
    proxy: Proxy = await make_proxy(guarded)
    go, given = threading.Event(), itertools.count()

    def token() -> str:
        match next(given):
            case 1:
                go.wait(30)
                return "stale"
            case 2:
                # The first answers while this one is asked.
                go.set()
                time.sleep(0.1)
        return PASSWORD

    c = await client(proxy, username=USER, password=token, reconnect=QUICK, connect_timeout=0.3)
    events = c.events()
    proxy.cut()
    await next_event(events, reqtt.Connected)
    assert [record.packet.password for record in proxy.up(CONNECT)] == [PASSWORD.encode()] * 2


async def test_closing_ends_the_question(guarded: Broker, make_proxy: Factory, client: Factory) -> None:
    proxy: Proxy = await make_proxy(guarded)
    asked, over, given = asyncio.Event(), asyncio.Event(), itertools.count()

    async def token() -> str:
        if next(given):
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                over.set()
        return PASSWORD

    c = await client(proxy, username=USER, password=token, reconnect=QUICK)
    proxy.cut()
    await asyncio.wait_for(asked.wait(), 5)
    await asyncio.wait_for(c.close(), 1)
    await asyncio.wait_for(over.wait(), 1)
    assert len(proxy.up(CONNECT)) == 1


# --- SCRAM


@client_must("MQTT-4.12.0-3", "MQTT-4.12.0-5")
@pytest.mark.parametrize("method", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("last", ["success", "apart"])
async def test_scram_lets_in_without_the_password_on_the_wire(
    gate: Factory, client: Factory, topic: str, method: str, last: str
) -> None:
    door = await gate(ScramDoor({USER: PASSWORD}, method, last=last))
    c = await client(door.url, authenticator=reqtt.Scram(USER, PASSWORD, method=method))
    assert c.connected
    assert (await c.publish(topic)).reason_code == 0x10
    connect, *answers = door.seen
    assert connect.properties["authentication_method"] == method
    assert (connect.username, connect.password) == (None, None)
    expected = [AUTH, AUTH, PUBLISH] if last == "apart" else [AUTH, PUBLISH]
    assert [packet.type for packet in answers] == expected
    assert PASSWORD.encode() not in b"".join(map(encode, door.seen))


async def test_scram_beside_user_name_and_password(gate: Factory, client: Factory) -> None:
    door = await gate(ScramDoor({USER: PASSWORD}))
    options = {"username": "u", "password": lambda: TOKENS[0]}
    assert (await client(door.url, authenticator=reqtt.Scram(USER, PASSWORD), **options)).connected
    assert (door.seen[0].username, door.seen[0].password) == ("u", TOKENS[0].encode())


async def test_each_connection_is_authenticated_from_the_start(
    gate: Factory, make_proxy: Factory, client: Factory
) -> None:
    door = await gate(ScramDoor({USER: PASSWORD}))
    proxy: Proxy = await make_proxy(door.port)
    c = await client(proxy, authenticator=reqtt.Scram(USER, PASSWORD), reconnect=QUICK)
    events = c.events()
    for _ in range(2):
        proxy.cut()
        await next_event(events, reqtt.Connected)
    firsts = [record.packet.properties["authentication_data"] for record in proxy.up(CONNECT)]
    assert len(set(firsts)) == 3, "a nonce was used twice"


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD)])
async def test_the_wrong_password_is_refused_by_name(gate: Factory, user: str, password: str) -> None:
    door = await gate(ScramDoor({USER: PASSWORD}))
    error = await refused(
        reqtt.Client(door.url, authenticator=reqtt.Scram(user, password)), "0x87 Not authorized"
    )
    assert error.reason_code == 0x87


async def test_a_client_that_was_refused_tries_again(gate: Factory) -> None:
    door = ScramDoor({USER: "another"})
    client = reqtt.Client((await gate(door)).url, authenticator=reqtt.Scram(USER, PASSWORD))
    with pytest.raises(reqtt.ConnectError):
        await client.connect()
    door.passwords[USER] = PASSWORD
    async with client:
        assert client.connected


async def test_a_broker_that_does_not_know_the_password_is_not_believed(gate: Factory) -> None:
    door = await gate(ScramDoor({}, impostor=True))
    client = reqtt.Client(door.url, authenticator=reqtt.Scram(USER, PASSWORD))
    error = await refused(client, r"authentication failed: .*signature doesn't match")
    assert error.reason_code is None
    ended = await door.ended()
    assert [packet.type for packet in ended] == [CONNECT, AUTH, DISCONNECT]
    # 0x87 is for servers (section 3.14.2.1).
    assert ended[-1].reason_code == 0x80


async def test_the_brokers_signature_may_not_be_left_out(gate: Factory) -> None:
    door = await gate(ScramDoor({USER: PASSWORD}, last="nowhere"))
    client = reqtt.Client(door.url, authenticator=reqtt.Scram(USER, PASSWORD))
    await refused(client, "did not prove itself")


async def test_success_without_any_exchange_is_not_believed(gate: Factory) -> None:
    async def open_door(link: Link) -> None:
        await link.receive(CONNECT)
        await link.admit()

    door = await gate(open_door)
    client = reqtt.Client(door.url, authenticator=reqtt.Scram(USER, PASSWORD))
    await refused(client, "did not prove itself")
    assert [packet.type for packet in await door.ended()] == [CONNECT, DISCONNECT]


async def test_an_impostor_is_found_out_on_a_reconnect_too(
    gate: Factory, make_proxy: Factory, topic: str
) -> None:
    door = ScramDoor({USER: PASSWORD})
    opened = await gate(door)
    proxy: Proxy = await make_proxy(opened.port)
    async with reqtt.Client(proxy.url, authenticator=reqtt.Scram(USER, PASSWORD), reconnect=QUICK) as client:
        events = client.events()
        door.impostor = True
        proxy.cut()
        await proxy.wait_up(DISCONNECT, count=2)
        waiting = asyncio.ensure_future(client.publish(topic))
        await proxy.wait_up(DISCONNECT, count=3)
        assert not client.connected
        assert not proxy.up(PUBLISH)
        door.impostor = False
        await next_event(events, reqtt.Connected)
        await waiting
        assert proxy.accepted >= 4


@pytest.mark.parametrize("iterations", [1_000_001, 10_000_000])
async def test_more_iterations_than_the_loop_can_stand_are_refused(gate: Factory, iterations: int) -> None:
    async def greedy(link: Link) -> None:
        first = (await link.receive(CONNECT)).properties["authentication_data"].decode()
        nonce = first.partition("r=")[2]
        link.auth(f"r={nonce}more,s=c2FsdHNhbHRzYWx0,i={iterations}".encode())
        await link.receive()

    client = reqtt.Client((await gate(greedy)).url, authenticator=reqtt.Scram(USER, PASSWORD))
    began = time.monotonic()
    await refused(client, f"{iterations:,} iterations")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "said", [b"", b"\xff\xfe", b"e=unknown-user", b"r=other,s=c2FsdHNhbHRzYWx0,i=4096", b"x" * 5000]
)
async def test_what_is_not_scram_is_a_clear_error(gate: Factory, said: bytes) -> None:
    async def babble(link: Link) -> None:
        await link.receive(CONNECT)
        link.auth(said)
        await link.receive()

    client = reqtt.Client((await gate(babble)).url, authenticator=reqtt.Scram(USER, PASSWORD))
    await refused(client, "SCRAM-SHA-256, the broker's first message")


async def test_a_method_that_is_not_offered_is_named(gate: Factory, mosquitto: Broker) -> None:
    door = await gate(ScramDoor({USER: PASSWORD}, "SCRAM-SHA-512"))
    for url in (door.url, mosquitto.url):
        client = reqtt.Client(url, authenticator=reqtt.Scram(USER, PASSWORD))
        error = await refused(client, "0x8C Bad authentication method")
        assert error.reason_code == 0x8C


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(("u", "p"), {"method": "MD5"}), (("u", "p"), {"method": "SCRAM-SHA-256-PLUS"}), (("", "p"), {})],
)
def test_scram_refuses_what_it_cannot_do(arguments: tuple[str, str], options: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        reqtt.Scram(*arguments, **options)


# --- rules of the exchange


class Rounds:
    """An authenticator that only counts."""

    method = "ROUNDS"

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.starts = 0

    def start(self) -> bytes:
        self.starts += 1
        self.heard.clear()
        return b"start"

    def challenge(self, data: bytes) -> bytes:
        self.heard.append(data)
        return b"re: " + data


@client_must("MQTT-4.12.0-3")
async def test_an_authenticator_has_as_many_rounds_as_the_broker_wants(
    gate: Factory, client: Factory
) -> None:
    heard = []

    async def five(link: Link) -> None:
        heard.append((await link.receive(CONNECT)).properties["authentication_data"])
        for number in range(5):
            link.auth(b"" if number == 2 else b"%d" % number)
            heard.append((await link.receive(AUTH)).properties["authentication_data"])
        link.auth(None)
        heard.append((await link.receive(AUTH)).properties["authentication_data"])
        await link.admit(b"last")

    rounds = Rounds()
    assert (await client((await gate(five)).url, authenticator=rounds)).connected
    assert heard == [b"start", b"re: 0", b"re: 1", b"re: ", b"re: 3", b"re: 4", b"re: "]
    assert rounds.heard == [b"0", b"1", b"", b"3", b"4", b"", b"last"]


@pytest.mark.parametrize("method", [None, "ROUNDS"], ids=["method left out", "method"])
async def test_success_without_data_asks_the_authenticator_nothing(
    gate: Factory, client: Factory, method: str | None
) -> None:
    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        await link.admit(authentication_method=method)

    rounds = Rounds()
    assert (await client((await gate(door)).url, authenticator=rounds)).connected
    assert rounds.heard == []


@pytest.mark.parametrize("where", ["start", "challenge", "last", "finish"])
async def test_an_authenticator_that_raises_ends_the_attempt(gate: Factory, where: str) -> None:
    class Fails(Rounds):
        broken = True

        def fail(self, here: str) -> None:
            if self.broken and here == where:
                raise VaultDown("the vault is sealed")

        def start(self) -> bytes:
            self.fail("start")
            return super().start()

        def challenge(self, data: bytes) -> bytes:
            self.fail("last" if data == b"last" else "challenge")
            return super().challenge(data)

        def finish(self) -> None:
            self.fail("finish")

    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        link.auth(b"1")
        await link.receive(AUTH)
        await link.admit(b"last")

    authenticator, opened = Fails(), await gate(door)
    client = reqtt.Client(opened.url, authenticator=authenticator)
    name = "challenge" if where == "last" else where
    with pytest.raises(
        reqtt.ConnectError, match=rf"authenticator\.{name}\(\) raised VaultDown: the vault is sealed"
    ):
        await client.connect()
    expected = {
        "start": [],
        "challenge": [CONNECT, DISCONNECT],
        "last": [CONNECT, AUTH, DISCONNECT],
        "finish": [CONNECT, AUTH, DISCONNECT],
    }[where]
    assert [packet.type for packet in await opened.ended()] == expected
    authenticator.broken = False
    async with client:
        assert client.connected


@pytest.mark.parametrize("wrong", [None, "text", 7])
@pytest.mark.parametrize("where", ["start", "challenge"])
async def test_an_authenticator_that_gives_no_bytes_is_told_so(gate: Factory, where: str, wrong: Any) -> None:
    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        link.auth(b"1")
        await link.receive(AUTH)

    authenticator: Any = Rounds()
    setattr(authenticator, where, lambda *_: wrong)
    client = reqtt.Client((await gate(door)).url, authenticator=authenticator)
    match = rf"authenticator\.{where}\(\) gave {type(wrong).__name__}: have it return bytes"
    await refused(client, match)


async def test_an_authenticator_that_gives_too_much_is_told_so(gate: Factory) -> None:
    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        link.auth(b"1")
        await link.receive(AUTH)

    for where in ("start", "challenge"):
        authenticator: Any = Rounds()
        setattr(authenticator, where, lambda *_: b"x" * 65_536)
        client = reqtt.Client((await gate(door)).url, authenticator=authenticator)
        await refused(client, "data has 65536 bytes: 65535 at most")


def test_what_is_no_authenticator_is_a_type_error() -> None:
    class Unfinished:
        method = "X"

        def start(self) -> bytes:
            return b""

    class Numbered(Rounds):
        method: Any = 5

    class Nul(Rounds):
        method = "a\0b"

    unfinished: Any = Unfinished()
    with pytest.raises(TypeError, match="challenge"):
        reqtt.Client(authenticator=unfinished)
    with pytest.raises(TypeError):
        reqtt.Client(authenticator=Numbered())
    with pytest.raises(ValueError, match="NUL"):
        reqtt.Client(authenticator=Nul())


def auth(reason_code: int = CONTINUE, method: str | None = "ROUNDS", data: bytes | None = b"1") -> Packet:
    properties = {"authentication_method": method, "authentication_data": data}
    return Packet(AUTH, reason_code=reason_code).with_properties(**properties)


@client_must("MQTT-4.12.0-5")
@pytest.mark.parametrize(
    "packets",
    [
        [auth(method="OTHER")],
        [auth(method=None)],
        [auth(AGAIN)],
        [auth(0)],
        [Packet(AUTH)],
        [auth(), auth()],
        [auth(), Packet(CONNACK, {"authentication_method": "ROUNDS"})],
        [Packet(CONNACK, {"authentication_method": "OTHER"})],
        [Packet(CONNACK, {"authentication_method": "OTHER", "authentication_data": b"x"})],
    ],
    ids=[
        "another method",
        "no method",
        "re-authenticate",
        "success before CONNACK",
        "short success before CONNACK",
        "two at a time",
        "CONNACK before the answer",
        "CONNACK of another method",
        "CONNACK of another method with data",
    ],
)
async def test_an_auth_that_breaks_the_rules_of_connecting(gate: Factory, packets: list[Packet]) -> None:
    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        link.send(*packets)
        with contextlib.suppress(ConnectionError):
            await asyncio.Event().wait()

    opened = await gate(door)
    client = reqtt.Client(opened.url, authenticator=Rounds())
    await refused(client, "where the protocol does not allow it|authentication method|out of turn")
    assert [(p.type, p.reason_code) for p in (await opened.ended())[1:]] == [(DISCONNECT, 0x82)]


@pytest.mark.parametrize("packet", [auth(), auth(0), auth(AGAIN), auth(method="OTHER"), Packet(AUTH)])
async def test_an_auth_that_nobody_asked_for_ends_the_connection(
    gate: Factory, client: Factory, packet: Packet
) -> None:
    links: list[Link] = []

    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        await link.admit()
        links.append(link)

    rounds = Rounds()
    c = await client((await gate(door)).url, authenticator=rounds, reconnect=QUICK)
    events = c.events()
    await eventually(lambda: links)
    links[0].send(packet)
    lost = await next_event(events, reqtt.Disconnected)
    assert not lost.final
    await links[0].closed.wait()
    assert (links[0].seen[-1].type, links[0].seen[-1].reason_code) == (DISCONNECT, 0x82)
    await next_event(events, reqtt.Connected)
    assert rounds.heard == []


@pytest.mark.parametrize("when", ["connecting", "connected"])
async def test_an_auth_without_an_authenticator_is_a_protocol_error(gate: Factory, when: str) -> None:
    links: list[Link] = []

    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        if when == "connecting":
            link.send(auth())
        else:
            await link.admit()
        links.append(link)

    opened = await gate(door)
    client = reqtt.Client(opened.url, reconnect=None)
    if when == "connecting":
        await refused(client, "AUTH|Auth")
    else:
        async with client:
            events = client.events()
            await eventually(lambda: links)
            links[0].send(auth())
            assert (await next_event(events, reqtt.Disconnected)).final
    assert [(p.type, p.reason_code) for p in (await opened.ended())[1:]] == [(DISCONNECT, 0x82)]


@client_must("MQTT-4.13.2-1")
@pytest.mark.parametrize("how", ["DISCONNECT", "CONNACK", "FIN", "silence"])
async def test_a_broker_that_ends_the_exchange(gate: Factory, how: str) -> None:
    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        link.auth(b"1")
        await link.receive(AUTH)
        if how == "DISCONNECT":
            link.send(Packet(DISCONNECT, {"reason_string": "go away"}, reason_code=0x87))
        elif how == "CONNACK":
            link.refuse(0x87)
        elif how == "FIN":
            await link.close()

    client = reqtt.Client((await gate(door)).url, authenticator=Rounds(), connect_timeout=0.5)
    match = {
        "DISCONNECT": "0x87 Not authorized.*go away",
        "CONNACK": "0x87 Not authorized",
        "FIN": "closed the connection",
        "silence": "connect_timeout",
    }
    error = await refused(client, match[how])
    assert error.reason_code == (0x87 if how in ("DISCONNECT", "CONNACK") else None)


async def test_messages_that_come_with_the_connack_wait_for_the_check(
    gate: Factory, client: Factory, topic: str
) -> None:
    properties = {"authentication_method": "ROUNDS", "authentication_data": b"last"}
    messages = [Packet(PUBLISH, topic=topic, payload=b"%d" % n, qos=1, packet_id=n) for n in (1, 2, 3)]

    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        link.send(Packet(CONNACK, properties, session_present=True), *messages)
        subscribe = await link.receive()
        link.write(bytes([0x90, 4, *struct.pack(">H", subscribe.packet_id), 0, 1]))
        with contextlib.suppress(ConnectionError):
            while True:
                await link.receive()

    options: dict[str, Any] = {"clean_start": False, "client_id": "panel-7", "session_expiry_interval": 60}
    c = await client((await gate(door)).url, authenticator=Rounds(), **options)
    async with c.subscribe(topic) as received, asyncio.timeout(5):
        assert [(await anext(received)).payload for _ in messages] == [b"1", b"2", b"3"]


# --- authenticating again


@client_must("MQTT-4.12.1-1")
async def test_a_reauthentication_loses_no_request(gate: Factory, topic: str) -> None:
    door = ScramDoor({USER: PASSWORD})
    opened = await gate(door)
    client = reqtt.Client(opened.url, authenticator=reqtt.Scram(USER, PASSWORD), reconnect=None)

    @reqtt.responder(topic, concurrency=100)
    async def slow(body: bytes) -> bytes:
        await asyncio.sleep(0.05)
        return body

    async with client, reqtt.Responder(client, [slow]), reqtt.Requester(client) as req:

        async def ask(number: int) -> None:
            assert (await req.request(topic, b"%d" % number, timeout=10)).payload == b"%d" % number

        async def ask_on(start: int) -> None:
            for number in range(start, start + 10):
                await ask(number)

        asking = asyncio.gather(*(ask_on(start) for start in range(0, 200, 10)))
        for _ in range(3):
            await client.reauthenticate()
        assert not asking.done()
        await asking
        assert client.stats().reconnects == 0
    assert door.exchanges == 4
    again = [p for p in opened.seen if p.type is AUTH and p.reason_code == AGAIN]
    assert len({p.properties["authentication_data"] for p in again}) == 3
    assert {p.properties["authentication_method"] for p in again} == {"SCRAM-SHA-256"}


async def test_the_broker_refuses_to_authenticate_again(gate: Factory) -> None:
    door = ScramDoor({USER: PASSWORD})
    opened = await gate(door)
    authenticator = reqtt.Scram(USER, PASSWORD)
    async with reqtt.Client(opened.url, authenticator=authenticator, reconnect=QUICK) as client:
        events = client.events()
        door.passwords[USER] = "changed"
        with pytest.raises(reqtt.ConnectionLost, match="0x87 Not authorized") as caught:
            await client.reauthenticate()
        assert caught.value.reason_code == 0x87
        lost = await next_event(events, reqtt.Disconnected)
        assert (lost.reason_code, lost.final) == (0x87, False)
        with pytest.raises(reqtt.ConnectionLost, match="no connection"):
            await client.reauthenticate()
        door.passwords[USER] = PASSWORD
        await next_event(events, reqtt.Connected)
        await client.reauthenticate()


@client_must("MQTT-4.12.1-2")
@pytest.mark.parametrize("last", ["impostor", "nowhere"])
async def test_the_broker_has_to_prove_itself_again(gate: Factory, last: str) -> None:
    door = ScramDoor({USER: PASSWORD})
    opened = await gate(door)
    authenticator = reqtt.Scram(USER, PASSWORD)
    async with reqtt.Client(opened.url, authenticator=authenticator, reconnect=QUICK) as client:
        events = client.events()
        first = opened.links[0]
        if last == "impostor":
            door.impostor = True
        else:
            door.last = last
        with pytest.raises(reqtt.ConnectionLost, match="authentication failed"):
            await client.reauthenticate()
        await asyncio.wait_for(first.closed.wait(), 5)
        assert (first.seen[-1].type, first.seen[-1].reason_code) == (DISCONNECT, 0x80)
        assert not (await next_event(events, reqtt.Disconnected)).final
        door.impostor, door.last = False, "success"
        await next_event(events, reqtt.Connected)


@client_must("MQTT-4.12.0-7")
async def test_without_an_authenticator_there_is_nothing_to_do_again(
    loopback: Broker, client: Factory
) -> None:
    c = await client(loopback)
    with pytest.raises(ValueError, match="authenticator="):
        await c.reauthenticate()
    assert c.connected


async def test_reauthenticating_takes_a_connection(gate: Factory) -> None:
    client = reqtt.Client((await gate(ScramDoor({USER: PASSWORD}))).url, authenticator=Rounds())
    with pytest.raises(reqtt.ConnectionLost, match="no connection"):
        await client.reauthenticate()
    await client.close()
    with pytest.raises(reqtt.ClientClosed):
        await client.reauthenticate()


async def test_reauthentications_at_the_same_time_follow_one_another(gate: Factory, client: Factory) -> None:
    door = ScramDoor({USER: PASSWORD})
    c = await client((await gate(door)).url, authenticator=reqtt.Scram(USER, PASSWORD), reconnect=None)
    async with asyncio.timeout(5):
        await asyncio.gather(*(c.reauthenticate() for _ in range(5)))
    assert door.exchanges == 6
    assert c.connected


class Obedient:
    """A door whose re-authentications do what the test says."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.links: list[Link] = []
        self.agains = 0

    async def __call__(self, link: Link) -> None:
        self.links.append(link)
        await link.receive(CONNECT)
        await link.admit()
        while True:
            assert (await link.receive(AUTH)).reason_code == AGAIN
            self.agains += 1
            link.auth(b"challenge")
            await link.receive(AUTH)
            self.asked.set()
            await self.go.wait()
            link.auth(b"last", reason_code=0)


async def test_a_caller_that_gives_up_does_not_end_the_exchange(gate: Factory, client: Factory) -> None:
    door, rounds = Obedient(), Rounds()
    c = await client((await gate(door)).url, authenticator=rounds, reconnect=None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await c.reauthenticate()
    second = asyncio.ensure_future(c.reauthenticate())
    await asyncio.wait([second], timeout=0.1)
    assert (door.agains, second.done()) == (1, False)
    door.go.set()
    await asyncio.wait_for(second, 5)
    assert door.agains == 2
    assert rounds.starts == 3


@pytest.mark.parametrize("how", ["cut", "fin"])
async def test_a_connection_that_breaks_while_it_authenticates_again(
    gate: Factory, make_proxy: Factory, client: Factory, how: str
) -> None:
    door, rounds = Obedient(), Rounds()
    proxy: Proxy = await make_proxy((await gate(door)).port)
    c = await client(proxy, authenticator=rounds, reconnect=QUICK)
    events = c.events()
    calls = [asyncio.ensure_future(c.reauthenticate()) for _ in range(2)]
    await asyncio.wait_for(door.asked.wait(), 5)
    if how == "cut":
        proxy.cut()
    else:
        await door.links[0].close()
    for call in calls:
        with pytest.raises(reqtt.ConnectionLost):
            await asyncio.wait_for(call, 5)
    await next_event(events, reqtt.Disconnected)
    await next_event(events, reqtt.Connected)
    assert proxy.up(CONNECT)[-1].packet.properties["authentication_data"] == b"start"
    door.go.set()
    await asyncio.wait_for(c.reauthenticate(), 5)
    assert c.connected


async def test_a_reauthentication_that_takes_too_long_ends_the_connection(
    gate: Factory, client: Factory
) -> None:
    door = Obedient()
    c = await client((await gate(door)).url, authenticator=Rounds(), reconnect=QUICK, connect_timeout=0.3)
    events = c.events()
    began = time.monotonic()
    with pytest.raises(reqtt.ConnectionLost, match="connect_timeout"):
        await asyncio.wait_for(c.reauthenticate(), 5)
    assert 0.29 <= time.monotonic() - began < 1.3
    await next_event(events, reqtt.Connected)


async def test_closing_ends_a_reauthentication(gate: Factory) -> None:
    door = Obedient()
    client = reqtt.Client((await gate(door)).url, authenticator=Rounds())
    await client.connect()
    call = asyncio.ensure_future(client.reauthenticate())
    await asyncio.wait_for(door.asked.wait(), 5)
    await client.close()
    with pytest.raises(reqtt.ClientClosed):
        await asyncio.wait_for(call, 5)


async def test_an_auth_success_may_be_as_short_as_it_gets(gate: Factory, client: Factory) -> None:
    async def door(link: Link) -> None:
        await link.receive(CONNECT)
        await link.admit()
        for short in (b"\xf0\x00", b"\xf0\x02\x00\x00"):
            await link.receive(AUTH)
            link.write(short)

    c = await client((await gate(door)).url, authenticator=Rounds(), reconnect=None)
    async with asyncio.timeout(5):
        await c.reauthenticate()
        await c.reauthenticate()


@pytest.mark.parametrize("where", ["start", "challenge"])
async def test_an_authenticator_that_raises_while_it_authenticates_again(
    gate: Factory, client: Factory, where: str
) -> None:
    def fail(*_: Any) -> bytes:
        raise VaultDown("the vault is sealed")

    door, authenticator = Obedient(), Rounds()
    changed: Any = authenticator
    c = await client((await gate(door)).url, authenticator=authenticator, reconnect=QUICK)
    events = c.events()
    setattr(changed, where, fail)
    if where == "start":
        # It comes to nobody but the caller.
        with pytest.raises(VaultDown):
            await c.reauthenticate()
        assert c.connected
        assert door.agains == 0
    else:
        with pytest.raises(
            reqtt.ConnectionLost, match=r"challenge\(\) raised VaultDown: the vault is sealed"
        ):
            await c.reauthenticate()
        delattr(changed, where)
        await next_event(events, reqtt.Connected)


# --- secrets


def told(client: reqtt.Client, caplog: pytest.LogCaptureFixture, *errors: BaseException) -> str:
    """All that a client lets out."""
    chain: list[BaseException] = []
    for error in errors:
        step: BaseException | None = error
        while step is not None and step not in chain:
            chain.append(step)
            step = step.__cause__ or step.__context__
    texts = [repr(client), repr(client.stats()), caplog.text]
    for error in chain:
        texts += [str(error), repr(error), repr(error.args), repr(vars(error))]
        texts += traceback.format_exception_only(error)
    texts += [repr(task) for task in asyncio.all_tasks()]
    return "\n".join(texts)


@pytest.mark.parametrize("kind", [plain, coroutine], ids=["def", "async def"])
@pytest.mark.parametrize("password", [PASSWORD, PASSWORD + "-wrong"], ids=["right", "wrong"])
async def test_what_is_asked_for_is_never_told(
    guarded: Broker, make_proxy: Factory, caplog: pytest.LogCaptureFixture, kind: Any, password: str
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0  # every callback is logged
    proxy: Proxy = await make_proxy(guarded)
    client = reqtt.Client(
        proxy.url,
        username=kind(itertools.repeat(USER)),
        password=kind(itertools.repeat(password)),
        reconnect=QUICK,
    )
    errors: list[BaseException] = []
    try:
        await client.connect()
        events = client.events()
        proxy.cut()
        await next_event(events, reqtt.Connected)
    except reqtt.ConnectError as error:
        errors.append(error)
    finally:
        loop.set_debug(False)
    assert bool(errors) == (password != PASSWORD)
    text = told(client, caplog, *errors)
    await client.close()
    assert "Executing" in text, "asyncio logged nothing"
    assert PASSWORD not in text
    assert USER not in text


@pytest.mark.parametrize("wrong", [{"username": USER.encode()}, {"password": [PASSWORD]}, {"password": 7}])
async def test_an_answer_of_the_wrong_type_is_not_told(
    guarded: Broker, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    [(name, value)] = wrong.items()
    client = reqtt.Client(guarded.url, **{name: lambda: value})
    with pytest.raises(reqtt.ConnectError) as caught:
        await client.connect()
    text = told(client, caplog, caught.value)
    assert not any(secret in text for secret in (PASSWORD, USER))


@pytest.mark.parametrize("case", ["right", "wrong", "impostor", "babble"])
async def test_the_messages_of_scram_are_never_told(
    gate: Factory, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    said: list[bytes] = []
    door = ScramDoor({USER: "other" if case == "wrong" else PASSWORD}, impostor=case == "impostor")

    async def script(link: Link) -> None:
        send = link.auth

        def auth(data: bytes | None, *more: Any, **others: Any) -> None:
            said.append(data or b"")
            send(data, *more, **others)

        link.auth = auth  # type: ignore[method-assign]
        if case == "babble":
            await link.receive(CONNECT)
            link.auth(b"r=babble-babble,s=c2FsdHNhbHRzYWx0,i=4096")
            await link.receive(AUTH)
        else:
            await door(link)

    opened = await gate(script)
    authenticator = reqtt.Scram(USER, PASSWORD)
    client = reqtt.Client(opened.url, authenticator=authenticator)
    errors: list[BaseException] = []
    try:
        await client.connect()
        await client.reauthenticate()
        door.impostor = True
        await client.reauthenticate()
    except reqtt.ReqttError as error:
        errors.append(error)
    finally:
        loop.set_debug(False)
    assert errors
    text = told(client, caplog, *errors) + repr(authenticator)
    await client.close()
    said += [p.properties["authentication_data"] for p in opened.seen if p.type in (AUTH, CONNECT)]
    pieces = {value for data in said for field in data.decode().split(",") if len(value := field[2:]) > 6}
    assert len(pieces) > 1
    assert not [piece for piece in {PASSWORD, USER, *pieces} if piece in text]


def test_what_holds_a_secret_does_not_show_it() -> None:
    scram = reqtt.Scram(USER, PASSWORD)
    scram.start()
    client = reqtt.Client(
        f"mqtt://{USER}:{PASSWORD}@127.0.0.1", username=lambda: USER, password=PASSWORD, authenticator=scram
    )
    for text in (repr(scram), str(scram), repr(client), str(client), f"{client}", repr(client.connect)):
        assert PASSWORD not in text
        assert USER not in text


# --- TLS


def offered_versions(hello: bytes) -> list[int]:
    """What a ClientHello (RFC 8446, section 4.1.2) is willing to speak."""
    assert hello[0] == 22, "no handshake record"
    body = hello[5 + 4 :]
    legacy = struct.unpack_from(">H", body)[0]
    at = 34
    at += 1 + body[at]  # session
    at += 2 + struct.unpack_from(">H", body, at)[0]  # cipher suites
    at += 1 + body[at]  # compression
    end = at + 2 + struct.unpack_from(">H", body, at)[0]
    at += 2
    while at < end:
        kind, length = struct.unpack_from(">HH", body, at)
        at += 4
        if kind == 43:  # supported_versions
            return list(struct.unpack_from(f">{body[at] // 2}H", body, at + 1))
        at += length
    return [legacy]


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
@pytest.mark.parametrize("tls", [None, reqtt.TlsOptions(verify=False)], ids=["default", "unverified"])
async def test_nothing_below_tls_1_2_is_offered(scheme: str, tls: Any) -> None:
    hello: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(5)
        hello.set_result(head + await reader.readexactly(struct.unpack_from(">H", head, 3)[0]))
        # TLS 1.1's alert: protocol_version.
        writer.write(b"\x15\x03\x02\x00\x02\x02\x46")
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(reqtt.ConnectError):
        await reqtt.Client(url, tls=tls).connect()
    assert set(offered_versions(await hello)) == {0x0303, 0x0304}
    server.close()


async def test_a_server_that_chooses_tls_1_1_is_left() -> None:
    left = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(5)
        await reader.readexactly(struct.unpack_from(">H", head, 3)[0])
        body = b"\x03\x02" + bytes(32) + b"\x00" + b"\x00\x2f" + b"\x00"
        server_hello = b"\x02" + len(body).to_bytes(3, "big") + body
        writer.write(b"\x16\x03\x02" + struct.pack(">H", len(server_hello)) + server_hello)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(reqtt.ConnectError, match=r"(?i)tls"):
        await reqtt.Client(url, tls=reqtt.TlsOptions(verify=False), connect_timeout=2).connect()
    await asyncio.wait_for(left.wait(), 5)
    server.close()
