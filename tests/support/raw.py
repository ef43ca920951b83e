"""An MQTT 5 client that does what a test tells it and nothing else. Shares no code with reqtt."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from support.packets import Decoder, Filter, Packet, Properties, Type, Will, encode
from support.sockets import reset

Answer = Callable[[Packet], bytes | str | Awaitable[bytes | str]]


def _bytes(payload: bytes | str) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload


class RawClient:
    """
    `async with await RawClient.connect(port) as peer`. Incoming PUBLISHes wait for `receive()`; with
    `auto_ack=False` the test calls `ack()` itself. QoS 2 is always completed.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, auto_ack: bool) -> None:
        self._reader = reader
        self._writer = writer
        self.auto_ack = auto_ack
        self.connack = Packet(Type.CONNACK)
        self.disconnected: Packet | None = None  # the broker's DISCONNECT
        self.client_id = ""
        self._messages: asyncio.Queue[Packet] = asyncio.Queue()
        self._replies: dict[tuple[Type, int], asyncio.Future[Packet]] = {}
        self._packet_id = 0
        self._response_topics: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()

    @classmethod
    async def connect(
        cls,
        port: int,
        host: str = "127.0.0.1",
        *,
        client_id: str | None = None,
        clean_start: bool = True,
        keep_alive: int = 0,
        username: str | None = None,
        password: bytes | None = None,
        will: Will | None = None,
        auto_ack: bool = True,
        expect: int | None = 0,
        **properties: Any,
    ) -> Self:
        """Properties by their names in the specification. `expect`: the CONNACK reason code (None: any)."""
        reader, writer = await asyncio.open_connection(host, port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self = cls(reader, writer, auto_ack)
        self.client_id = f"raw-{secrets.token_hex(4)}" if client_id is None else client_id
        reply = self._expect(Type.CONNACK, 0)
        self._start(self._read())
        self.send(
            Packet(
                Type.CONNECT,
                properties,
                client_id=self.client_id,
                clean_start=clean_start,
                keep_alive=keep_alive,
                username=username,
                password=password,
                will=will,
            )
        )
        self.connack = await self._within(reply, "CONNACK")
        self.client_id = self.connack.properties.get("assigned_client_identifier", self.client_id)
        if expect is not None and self.connack.reason_code != expect:
            await self.close()
            raise AssertionError(f"CONNACK 0x{self.connack.reason_code:02x}, expected 0x{expect:02x}")
        return self

    def send(self, packet: Packet) -> None:
        """Any packet, right or wrong."""
        self._writer.write(encode(packet))

    async def subscribe(
        self, *filters: str | Filter, qos: int = 1, expect: int | None = None, **properties: Any
    ) -> list[int]:
        """The reason codes of the SUBACK; anything from 0x80 on fails the test unless it is `expect`ed."""
        asked = tuple(f if isinstance(f, Filter) else Filter(f, qos) for f in filters)
        packet_id, reply = self._request(Type.SUBACK)
        self.send(Packet(Type.SUBSCRIBE, properties, packet_id=packet_id, filters=asked))
        codes = list((await self._within(reply, "SUBACK")).reason_codes)
        assert all(c == expect if expect is not None else c < 0x80 for c in codes), f"SUBACK {codes}"
        return codes

    async def unsubscribe(self, *filters: str) -> list[int]:
        packet_id, reply = self._request(Type.UNSUBACK)
        self.send(Packet(Type.UNSUBSCRIBE, packet_id=packet_id, filters=tuple(map(Filter, filters))))
        return list((await self._within(reply, "UNSUBACK")).reason_codes)

    async def publish(
        self,
        topic: str,
        payload: bytes | str = b"",
        *,
        qos: int = 1,
        retain: bool = False,
        dup: bool = False,
        **properties: Any,
    ) -> Packet | None:
        """The PUBACK (QoS 1), the PUBREC (QoS 2); None at QoS 0. Properties that are None are left out."""
        kept: Properties = {k: v for k, v in properties.items() if v is not None}
        packet = Packet(
            Type.PUBLISH, kept, topic=topic, payload=_bytes(payload), qos=qos, retain=retain, dup=dup
        )
        if not qos:
            self.send(packet)
            await self._writer.drain()
            return None
        packet_id, reply = self._request(Type.PUBACK if qos == 1 else Type.PUBREC)
        self.send(Packet(**{**{n: getattr(packet, n) for n in Packet.__slots__}, "packet_id": packet_id}))
        ack = await self._within(reply, reply_name(qos))
        if qos == 2 and ack.reason_code < 0x80:
            done = self._expect(Type.PUBCOMP, packet_id)
            self.send(Packet(Type.PUBREL, packet_id=packet_id))
            await self._within(done, "PUBCOMP")
        return ack

    async def receive(self, timeout: float = 5) -> Packet:
        """The next PUBLISH."""
        try:
            async with asyncio.timeout(timeout):
                return await self._messages.get()
        except TimeoutError:
            raise AssertionError(f"{self.client_id}: no message within {timeout} s") from None

    @property
    def waiting(self) -> int:
        """Messages received and not yet taken."""
        return self._messages.qsize()

    async def ping(self) -> None:
        """A round trip: what the broker sent before has been received when this returns."""
        reply = self._expect(Type.PINGRESP, 0)
        self.send(Packet(Type.PINGREQ))
        await self._within(reply, "PINGRESP")

    def ack(self, message: Packet, reason_code: int = 0) -> None:
        if message.qos == 1:
            self.send(Packet(Type.PUBACK, packet_id=message.packet_id, reason_code=reason_code))
        elif message.qos == 2:
            self.send(Packet(Type.PUBREC, packet_id=message.packet_id, reason_code=reason_code))

    async def respond(
        self, request: Packet, payload: bytes | str = b"", *, qos: int = 1, **properties: Any
    ) -> Packet | None:
        """Publishes to the request's Response Topic with its Correlation Data, as section 4.10.1 says."""
        assert request.response_topic is not None, "no Response Topic in the request"
        properties = {"correlation_data": request.correlation_data, **properties}
        return await self.publish(request.response_topic, payload, qos=qos, **properties)

    async def serve(
        self, topic_filter: str, answer: Answer = lambda request: request.payload, **properties: Any
    ) -> None:
        """Answers every message on the filter from now on (an echo by default)."""
        await self.subscribe(topic_filter)

        async def loop() -> None:
            while True:
                request = await self._messages.get()
                result = answer(request)
                payload = await result if inspect.isawaitable(result) else result
                await self.respond(request, payload, **properties)

        self._start(loop())

    async def request(
        self,
        topic: str,
        payload: bytes | str = b"",
        *,
        response_topic: str | None = None,
        correlation_data: bytes | None = b"c0rrelation-data",
        timeout: float = 5,
        qos: int = 1,
        **properties: Any,
    ) -> Packet:
        """Subscribes to a response topic, publishes, returns the next message there."""
        response_topic = await self.listen(response_topic)
        await self.publish(
            topic,
            payload,
            qos=qos,
            response_topic=response_topic,
            correlation_data=correlation_data,
            **properties,
        )
        response = await self.receive(timeout)
        assert response.topic == response_topic, response
        return response

    async def listen(self, response_topic: str | None = None) -> str:
        """Subscribes once to a response topic and returns it."""
        response_topic = response_topic or f"raw-responses/{self.client_id}"
        if response_topic not in self._response_topics:
            await self.subscribe(response_topic)
            self._response_topics.add(response_topic)
        return response_topic

    async def close(self, reason_code: int = 0) -> None:
        if not self._writer.is_closing():
            self.send(Packet(Type.DISCONNECT, reason_code=reason_code))
            self._writer.close()
        await self._end()

    async def kill(self) -> None:
        """RST, no DISCONNECT."""
        reset(self._writer)
        await self._end()

    async def wait_closed(self, timeout: float = 5) -> None:
        """Until the broker has closed the connection."""
        await asyncio.wait_for(self._closed.wait(), timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.close()

    # --- inside

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for t in tasks:
            t.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _expect(self, kind: Type, packet_id: int) -> asyncio.Future[Packet]:
        if self._closed.is_set():
            raise ConnectionError(f"{self.client_id}: closed by the broker ({self.disconnected})")
        future: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        self._replies[kind, packet_id] = future
        return future

    def _request(self, reply: Type) -> tuple[int, asyncio.Future[Packet]]:
        self._packet_id = self._packet_id % 65535 + 1
        return self._packet_id, self._expect(reply, self._packet_id)

    async def _within(self, reply: asyncio.Future[Packet], what: str, timeout: float = 5) -> Packet:
        try:
            # Not wait_for(), which before Python 3.12 forgets a cancellation that meets the reply.
            async with asyncio.timeout(timeout):
                return await reply
        except TimeoutError:
            raise AssertionError(f"{self.client_id}: no {what} within {timeout} s") from None

    async def _read(self) -> None:
        decoder = Decoder()
        try:
            while data := await self._reader.read(65536):
                for packet, _ in decoder.feed(data):
                    self._take(packet)
        except OSError:
            pass
        self._closed.set()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(
                    ConnectionError(f"{self.client_id}: closed by the broker ({self.disconnected})")
                )
                future.exception()  # nobody may be waiting

    def _take(self, packet: Packet) -> None:
        match packet.type:
            case Type.PUBLISH:
                if self.auto_ack or packet.qos == 2:
                    self.ack(packet)
                self._messages.put_nowait(packet)
            case Type.PUBREL:
                self.send(Packet(Type.PUBCOMP, packet_id=packet.packet_id))
            case Type.DISCONNECT:
                self.disconnected = packet
            case _:
                future = self._replies.pop((packet.type, packet.packet_id), None)
                if future is not None and not future.done():
                    future.set_result(packet)


def reply_name(qos: int) -> str:
    return "PUBACK" if qos == 1 else "PUBREC"
