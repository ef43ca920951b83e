"""`reqtt respond`: answers requests, in one line."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

import reqtt
from reqtt.cli import _exit
from reqtt.cli._options import AsJson, with_target
from reqtt.cli._output import emit_json, milliseconds, note, payload_facts, preview
from reqtt.cli._running import observed, serve_until_stopped
from reqtt.cli._target import Target
from reqtt.responder import ResponderSpec

__all__ = ["respond"]


@with_target
def respond(
    target: Target,
    topic_filter: Annotated[
        str, typer.Argument(metavar="FILTER", help="Topic filter, e.g. cmnd/+/power.", show_default=False)
    ],
    handler: Annotated[
        str | None, typer.Argument(metavar="MODULE:HANDLER", help="A Python function.", show_default=False)
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Answer with the request's payload.")] = False,
    payload: Annotated[str | None, typer.Option(help="Answer with this text.")] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            help="Answer with what this program writes; it gets the payload on stdin. No shell.",
        ),
    ] = None,
    content_type: Annotated[str | None, typer.Option(help="Of the response.")] = None,
    group: Annotated[str | None, typer.Option(help="Share the requests with others of this group.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many requests run at a time.")] = 16,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", help="Seconds for each request; then 408.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many requests.")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line for each request.")] = False,
) -> int:
    """Answer requests, until Ctrl-C or SIGTERM; what has been received is answered first.

    Choose one of --echo, --payload, --exec and MODULE:HANDLER.
    """
    chosen = [echo, payload is not None, command is not None, handler is not None]
    if sum(chosen) != 1:
        raise _exit.CommandError("choose one of --echo, --payload, --exec and MODULE:HANDLER")
    options: dict[str, Any] = {"qos": target.qos, "concurrency": concurrency, "timeout": timeout}
    if handler is not None:
        spec = _handler(topic_filter, handler, options)
    else:
        spec = _spec(topic_filter, _answer(echo, payload, command, content_type), options)
    return asyncio.run(_respond(target, spec, group, _Watch(count, as_json=as_json, quiet=quiet)))


def _spec(topic_filter: str, function: Callable[..., Any], options: dict[str, Any]) -> ResponderSpec:
    decorated: Any = reqtt.responder(topic_filter, **options)(function)
    spec: ResponderSpec = decorated.__reqtt_responder__
    return dataclasses.replace(spec, also=())


def _handler(topic_filter: str, reference: str, options: dict[str, Any]) -> ResponderSpec:
    from reqtt.cli._modules import load

    if ":" not in reference:
        raise _exit.CommandError(f"{reference} names no function: write {reference}:handler")
    function = load(reference)
    if not callable(function) or isinstance(function, type):
        raise _exit.CommandError(f"{reference} is no function")
    return _spec(topic_filter, function, options)


def _answer(
    echo: bool, payload: str | None, command: str | None, content_type: str | None
) -> Callable[..., Any]:
    if command is not None:
        from reqtt.cli._program import Program

        run = Program(command)

        async def execute(request: reqtt.Request) -> reqtt.Response:
            return reqtt.Response(await run(request), content_type=content_type)

        return execute

    async def answer(request: reqtt.Request) -> reqtt.Response:
        if not echo:
            return reqtt.Response(payload, content_type=content_type)
        return reqtt.Response(
            request.payload,
            content_type=content_type or request.content_type,
            payload_format_indicator=request.payload_format_indicator,
        )

    return answer


class _Watch:
    """Tells of each request, and ends after the last."""

    def __init__(self, count: int | None, *, as_json: bool, quiet: bool) -> None:
        self._left = count
        self._as_json = as_json
        self._quiet = quiet
        self.over: asyncio.Future[int] | None = None

    async def __call__(self, request: reqtt.Request, call_next: Any) -> reqtt.Response:
        return await observed(request, call_next, functools.partial(self._tell, request))

    def _tell(self, request: reqtt.Request, status: int, took: float) -> None:
        if self._as_json:
            facts = {"topic": request.topic, **payload_facts(request.payload), "status": status}
            emit_json({**facts, "response_topic": request.response_topic, "ms": round(took * 1000, 3)})
        elif not self._quiet:
            note(f"{request.topic}  {preview(request.payload)}  {status}  {milliseconds(took)}")
        if self._left is not None:
            self._left -= 1
            if self._left == 0 and self.over is not None and not self.over.done():
                self.over.set_result(_exit.OK)


async def _respond(target: Target, spec: ResponderSpec, group: str | None, watch: _Watch) -> int:
    watch.over = asyncio.get_running_loop().create_future()
    app = reqtt.Responder(target.url, spec, group=group, middleware=[watch], **target.options())

    def ready() -> None:
        note(f"answering {spec.topic_filter} as {app.client.client_id}, until Ctrl-C")

    return await serve_until_stopped(app, ready, watch.over)
