"""A doorkeeper with enhanced authentication (section 4.12) in front of a broker that has none.

A script says what the door does on one connection; whom it admits talks to the real broker from then on, and
the script still has the connection's AUTH packets. Knows packets and scramp's server side; nothing of reqtt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from scramp import ScramException, ScramMechanism

from support.packets import AUTH, CONNACK, CONNECT, DISCONNECT, Decoder, Packet, Type, encode
from support.waiting import eventually

CONTINUE, AGAIN = 0x18, 0x19
NOT_AUTHORIZED, BAD_METHOD = 0x87, 0x8C


class Link:
    """One client's connection."""

    def __init__(self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gate = gate
        self.seen: list[Packet] = []
        self.closed = asyncio.Event()
        self._client = (reader, writer)
        self._broker: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._packets: asyncio.Queue[Packet | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        self._tasks.append(asyncio.ensure_future(self._up()))
        try:
            # Ends with the connection, whatever the script still waits for.
            with contextlib.suppress(ConnectionError):
                await self.gate.script(self)
            await self.closed.wait()
        finally:
            await self.close()

    # --- for scripts

    async def receive(self, kind: Type | None = None) -> Packet:
        """The next AUTH; before `admit`, the next packet."""
        packet = await self._packets.get()
        if packet is None or packet.type is DISCONNECT:
            raise ConnectionError("the client has gone")
        assert kind in (None, packet.type), packet
        return packet

    def send(self, *packets: Packet) -> None:
        self.write(b"".join(map(encode, packets)))

    def write(self, raw: bytes) -> None:
        self._client[1].write(raw)

    def auth(self, data: bytes | None, reason_code: int = CONTINUE, method: str | None = None) -> None:
        method = self.seen[0].properties["authentication_method"] if method is None else method
        properties: dict[str, Any] = {"authentication_method": method}
        if data is not None:
            properties["authentication_data"] = data
        self.send(Packet(AUTH, properties, reason_code=reason_code))

    def refuse(self, reason_code: int) -> None:
        self.send(Packet(CONNACK, reason_code=reason_code))
        self._client[1].close()

    async def admit(self, data: bytes | None = None, **properties: Any) -> None:
        """The broker's CONNACK, with this method and data; then everything but AUTH goes through."""
        connect = self.seen[0]
        method = connect.properties.get("authentication_method")
        self._broker = await asyncio.open_connection("127.0.0.1", self.gate.upstream_port)
        plain = connect.with_properties(authentication_method=None, authentication_data=None)
        self._broker[1].write(encode(replace(plain, username=None, password=None)))
        answer = asyncio.get_running_loop().create_future()
        extra = {"authentication_method": method, "authentication_data": data, **properties}
        self._tasks.append(asyncio.ensure_future(self._down(extra, answer)))
        await answer

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pair in (self._client, self._broker):
            if pair is not None:
                pair[1].close()
        self.closed.set()

    # --- inside

    async def _up(self) -> None:
        decoder, reader = Decoder(), self._client[0]
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for packet, raw in decoder.feed(data):
                    self.seen.append(packet)
                    if self._broker is None or packet.type in (CONNECT, AUTH):
                        self._packets.put_nowait(packet)
                    else:
                        self._broker[1].write(raw)
        self._packets.put_nowait(None)
        self.closed.set()

    async def _down(self, extra: dict[str, Any], admitted: asyncio.Future[None]) -> None:
        assert self._broker is not None
        decoder = Decoder()
        with contextlib.suppress(OSError):
            while data := await self._broker[0].read(65536):
                for packet, raw in decoder.feed(data):
                    if packet.type is CONNACK:
                        self.send(packet.with_properties(**extra))
                        admitted.set_result(None)
                    else:
                        self.write(raw)
        self._client[1].close()


Script = Callable[[Link], Awaitable[None]]


class Gate:
    """`async with Gate(script, broker_port) as gate: gate.url`"""

    def __init__(self, script: Script, upstream_port: int = 0) -> None:
        self.script = script
        self.upstream_port = upstream_port
        self.port = 0
        self.links: list[Link] = []
        self.failures: list[BaseException] = []
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def seen(self) -> list[Packet]:
        """What the latest client sent."""
        return self.links[-1].seen

    async def ended(self, timeout: float = 5) -> list[Packet]:
        """What the latest client sent, up to its end; one that has gone may not have been let in yet."""
        await eventually(lambda: self.links, timeout)
        await asyncio.wait_for(self.links[-1].closed.wait(), timeout)
        return self.seen

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        link = Link(self, reader, writer)
        self.links.append(link)
        try:
            await link.run()
        except Exception as error:
            self.failures.append(error)
        finally:
            self._running.discard(task)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for link in self.links:
            await link.close()
        if self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)
        if kind is None and self.failures:
            raise self.failures[0]


# --- scripts


class ScramDoor:
    """The honest server side of SCRAM. `passwords` may change; a wrong one, or an unknown user, gets 0x87.

    `last` says where the server's signature goes: with the CONNACK (or AUTH 0x00), in an AUTH of its own
    before that, or nowhere. `impostor`: it lets everybody in, and makes the signature up.
    """

    def __init__(
        self,
        passwords: dict[str, str],
        method: str = "SCRAM-SHA-256",
        *,
        last: str = "success",
        impostor: bool = False,
        iterations: int | None = None,
    ) -> None:
        self.passwords = passwords
        self.method = method
        self.last = last
        self.impostor = impostor
        self.iterations = iterations
        self.exchanges = 0

    async def __call__(self, link: Link) -> None:
        connect = await link.receive(CONNECT)
        if connect.properties.get("authentication_method") != self.method:
            link.refuse(BAD_METHOD)
            return
        proof = await self.exchange(link, connect)
        if proof is None:
            link.refuse(NOT_AUTHORIZED)
            return
        await link.admit(proof if self.last == "success" else None)
        while True:
            again = await link.receive(AUTH)
            assert again.reason_code == AGAIN, again
            proof = await self.exchange(link, again)
            if proof is None:
                link.send(Packet(DISCONNECT, reason_code=NOT_AUTHORIZED))
                await link.close()
                return
            link.auth(proof if self.last == "success" else None, reason_code=0)

    async def exchange(self, link: Link, first: Packet) -> bytes | None:
        """The server's last message; None: the client does not know the password."""
        self.exchanges += 1
        mechanism = ScramMechanism(self.method)

        def stored(username: str) -> Any:
            password = "anything" if self.impostor else self.passwords.get(username)
            return None if password is None else mechanism.make_auth_info(password, self.iterations)

        server = mechanism.make_server(stored)
        try:
            server.set_client_first(first.properties["authentication_data"].decode())
        except ScramException:
            return None
        link.auth(server.get_server_first().encode())
        answer = await link.receive(AUTH)
        assert answer.reason_code == CONTINUE, answer
        assert answer.properties["authentication_method"] == self.method
        try:
            server.set_client_final(answer.properties["authentication_data"].decode())
        except ScramException:
            if not self.impostor:
                return None
            return b"v=" + b"A" * 43 + b"="
        proof: bytes = server.get_server_final().encode()
        if self.last == "apart":
            link.auth(proof)
            nothing = await link.receive(AUTH)
            assert nothing.properties["authentication_data"] == b""
        return proof
