"""`reqtt request`: one request, and its response on stdout."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import reqtt
from reqtt.cli import _exit
from reqtt.cli._options import AsJson, with_target
from reqtt.cli._output import emit, emit_json, milliseconds, note, one_line, response_facts
from reqtt.cli._target import Target

if TYPE_CHECKING:
    from reqtt._options import RequestOptions

__all__ = ["request"]


@with_target
def request(
    target: Target,
    topic: Annotated[str, typer.Argument(help="Topic name.", show_default=False)],
    payload: Annotated[
        str,
        typer.Argument(
            help="Text; - is stdin, @file a file, @@text is text that begins with @.", show_default=False
        ),
    ] = "",
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", help="Seconds from the request to its response.")
    ] = 10.0,
    as_json: AsJson = False,
    latency: Annotated[bool, typer.Option("--latency", help="Show how long each step took.")] = False,
    user_property: Annotated[
        list[str] | None,
        typer.Option("-D", "--user-property", metavar="KEY=VALUE", help="User property; may be repeated."),
    ] = None,
    content_type: Annotated[
        str | None, typer.Option(help="What the payload is, e.g. application/json.")
    ] = None,
    response_topic: Annotated[str | None, typer.Option(help="Where the response is to go.")] = None,
    fail_fast: Annotated[bool, typer.Option(help="End once the broker says that nobody listens.")] = True,
    gather: Annotated[bool, typer.Option("--gather", help="Take the responses of all who answer.")] = False,
    max_responses: Annotated[
        int | None, typer.Option(min=1, help="With --gather: end after so many.")
    ] = None,
    stall: Annotated[
        float | None, typer.Option(help="With --gather: end after so many seconds without another.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Follow a response of many parts.")] = False,
    idle_timeout: Annotated[
        float | None, typer.Option(help="With --stream: seconds that it may be silent.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the payload, and errors.")] = False,
) -> int:
    """Send a request: the payload of the response goes to stdout, the rest to stderr.

    Exit codes: 0 ok, 1 error from the responder, 2 usage, 3 timeout, 4 nobody subscribes, 5 connection.
    """
    if gather and stream:
        raise _exit.CommandError("--gather and --stream are two things: choose one")
    if not gather and (max_responses is not None or stall is not None):
        raise _exit.CommandError("--max-responses and --stall end a --gather: add it")
    if not stream and idle_timeout is not None:
        raise _exit.CommandError("--idle-timeout ends a --stream: add it")
    if latency and (gather or stream):
        raise _exit.CommandError("--latency is for one response: leave out --gather and --stream")
    options: RequestOptions = {
        "timeout": timeout,
        "user_properties": _pairs(user_property or []),
        "fail_fast": fail_fast,
    }
    if response_topic is not None:
        options["response_topic"] = response_topic
    if content_type is not None:
        options["content_type"] = content_type
    body = _read(payload)
    if _is_text(body):
        options["payload_format_indicator"] = 1
    show = _Show(as_json=as_json, quiet=quiet)
    if gather:
        return asyncio.run(_gather(target, topic, body, options, show, max_responses, stall))
    if stream:
        return asyncio.run(_stream(target, topic, body, options, show, idle_timeout))
    return asyncio.run(_request(target, topic, body, options, show, latency))


def _read(payload: str) -> bytes:
    if payload == "-":
        return sys.stdin.buffer.read()
    if payload.startswith("@@"):
        return payload[1:].encode()
    if payload.startswith("@"):
        try:
            return Path(payload[1:]).read_bytes()
        except OSError as error:
            raise _exit.CommandError(
                f"payload {payload}: {error.strerror}; @@ begins a text with @"
            ) from None
    # What the shell passed on as bytes that are no UTF-8 stays that.
    return payload.encode("utf-8", "surrogateescape")


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pairs(given: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for item in given:
        key, separator, value = item.partition("=")
        if not separator:
            raise _exit.CommandError(f"-D {item}: write -D key=value")
        pairs.append((key, value))
    return pairs


class _Show:
    """Responses and errors, in the form that was asked for."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self._quiet = quiet

    def response(
        self, response: reqtt.Response, *, line: bool = False, steps: dict[str, float] | None = None
    ) -> None:
        if self.as_json:
            taken = {name: round(value * 1000, 3) for name, value in (steps or {}).items()}
            emit_json({**response_facts(response), **({"steps_ms": taken} if taken else {})})
            return
        self.remark(_facts_line(response))
        for name, value in (steps or {}).items():
            self.remark(f"{name:<10} {milliseconds(value):>10}   {_STEPS[name]}")
        emit(response.payload, line=line)

    def error(self, error: reqtt.ReqttError) -> None:
        """One among many: it ends nothing."""
        if self.as_json:
            emit_json({"error": _exit.as_facts(error)})
        else:
            note(f"reqtt: {_exit.line_of(error)}")

    def remark(self, text: str) -> None:
        if not self._quiet and not self.as_json:
            note(text)


def _facts_line(response: reqtt.Response) -> str:
    facts = [str(response.status), milliseconds(response.latency)]
    if response.content_type is not None:
        facts.append(response.content_type)
    facts += [f"{name}={value}" for name, value in response.user_properties]
    return "  ".join(facts)


async def _request(
    target: Target, topic: str, payload: bytes, options: RequestOptions, show: _Show, latency: bool
) -> int:
    began = time.perf_counter()
    async with target.client() as client:
        connected = time.perf_counter() - began
        own = _OwnTopic(options.get("response_topic"))
        async with reqtt.Requester(client, response_topic=own, qos=target.qos) as req:
            steps = {"connect": connected, **await _pings(req, own.topic)} if latency else {}
            response = await req.request(topic, payload, **options)
            if latency:
                steps["response"] = response.latency
            if "broker" in steps:
                steps["responder"] = max(0.0, response.latency - steps["broker"])
            show.response(response, steps=steps)
    return _exit.OK


_STEPS = {
    "connect": "TCP, TLS and CONNACK",
    "subscribe": "SUBSCRIBE of a response topic to its SUBACK",
    "broker": "a message to oneself: to the broker and back",
    "response": "the request to its response",
    "responder": "of that, what is not the way to the broker and back",
}


class _OwnTopic:
    """The default response topic, or the given one; remembers it."""

    def __init__(self, given: str | None) -> None:
        self.topic = given or ""

    def __call__(self, client_id: str, information: str | None, token: str) -> str:
        base = (information or f"clients/{client_id}/responses").rstrip("/")
        self.topic = self.topic or f"{base}/{token}"
        return self.topic


async def _pings(req: reqtt.Requester, topic: str) -> dict[str, float]:
    """What the broker alone takes. A request to one's own response topic is its own response."""
    try:
        # The first one subscribes, too.
        taken = [(await req.request(topic, timeout=2)).latency for _ in range(5)]
    except (reqtt.PublishError, reqtt.SubscribeError, reqtt.ResponseTimeout) as error:
        note(f"no steps: this client cannot send to its own response topic: {one_line(str(error))}")
        return {}
    broker = sorted(taken[1:])[1]
    return {"subscribe": max(0.0, taken[0] - broker), "broker": broker}


async def _gather(
    target: Target,
    topic: str,
    payload: bytes,
    options: RequestOptions,
    show: _Show,
    max_responses: int | None,
    stall: float | None,
) -> int:
    from reqtt.cli._table import live_table

    failed = count = 0
    async with reqtt.Requester(target.url, qos=target.qos, **target.options()) as req:
        began = time.perf_counter()
        gathering = req.gather(topic, payload, max_responses=max_responses, stall=stall, **options)
        with live_table(show) as add:
            async for found in gathering:
                count += 1
                failed += isinstance(found, reqtt.ReqttError)
                add(found)
        took = time.perf_counter() - began
    show.remark(f"{count} responses in {milliseconds(took)}, {failed} of them errors")
    if failed:
        return _exit.REMOTE
    if count:
        return _exit.OK
    if options["fail_fast"] and took < (options["timeout"] or 0) * 0.9:
        raise _exit.CommandError(f'nobody subscribes to "{topic}": start a responder first', _exit.NOBODY)
    raise _exit.CommandError(f'nobody answered to "{topic}" in time: raise --timeout', _exit.TIMEOUT)


async def _stream(
    target: Target,
    topic: str,
    payload: bytes,
    options: RequestOptions,
    show: _Show,
    idle_timeout: float | None,
) -> int:
    async with reqtt.Requester(target.url, qos=target.qos, **target.options()) as req:
        stream: Any = getattr(req, "stream", None)
        if stream is None:
            raise _exit.CommandError(f"reqtt {reqtt.__version__} cannot follow streams: use a later one")
        async for response in stream(topic, payload, idle_timeout=idle_timeout, **options):
            show.response(response, line=True)
    return _exit.OK
