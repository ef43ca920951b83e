"""`reqtt bench`: how many requests, and how long each takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import reqtt
from reqtt.cli import _exit
from reqtt.cli._numbers import percentiles
from reqtt.cli._options import AsJson, UrlArgument, with_target
from reqtt.cli._output import console, emit_json, note
from reqtt.cli._target import Target

__all__ = ["bench"]


@with_target
def bench(
    target: Target,
    address: UrlArgument = None,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="In all.")] = 10_000,
    in_flight: Annotated[int, typer.Option(min=1, help="At a time.")] = 100,
    payload_size: Annotated[int, typer.Option(min=0, help="Bytes of a request and of a response.")] = 16,
    topic: Annotated[
        str | None, typer.Option(help="Ask who listens there, instead of a responder in this process.")
    ] = None,
    loopback: Annotated[
        bool, typer.Option("--loopback", help="On the loopback broker in this process: for a first look.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", "-t", help="Seconds for each request.")] = 10.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JSON there, and a plot beside it as .svg.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Measure requests per second and latency percentiles.

    Requester and responder are in this process, on a connection each, unless --topic names another responder.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise _exit.CommandError(f"--out {out}: there is no folder {out.parent}")
    if out is not None and out.suffix == ".svg":
        raise _exit.CommandError(f"--out {out}: name the JSON file; the plot is written beside it")
    if loopback and address is not None:
        raise _exit.CommandError("--loopback has a broker of its own: leave out the URL")
    settings = {
        "requests": requests,
        "in_flight": in_flight,
        "payload_size": payload_size,
        "qos": target.qos,
        "topic": topic,
    }
    with contextlib.ExitStack() as stack:
        if loopback:
            from reqtt.testing import LoopbackBroker

            target = target.at(stack.enter_context(LoopbackBroker()).url)
        else:
            target = target.at(address)
        tick = stack.enter_context(_progress(requests, quiet=as_json))
        result = asyncio.run(_measure(target, settings, timeout, tick))
    taken = result.pop("taken")
    if as_json:
        emit_json(result)
    else:
        _show(result)
    if out is not None:
        _write(out, result, taken)
    return _exit.OK if not result["failed"] else _exit.TIMEOUT


@contextlib.contextmanager
def _progress(total: int, *, quiet: bool) -> Any:
    terminal = console()
    if quiet or not terminal.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=terminal) as progress:
        task = progress.add_task("", total=total)
        waiting = 0

        def tick() -> None:
            # It takes a lock and more: once for each request would be measured, too.
            nonlocal waiting
            waiting += 1
            if waiting == 100:
                progress.advance(task, waiting)
                waiting = 0

        yield tick
        progress.advance(task, waiting)


@contextlib.asynccontextmanager
async def _responder(target: Target, topic: str | None) -> AsyncIterator[str]:
    if topic is not None:
        yield topic
        return
    import secrets

    topic = f"reqtt/bench/{secrets.token_hex(4)}"

    async def echo(body: bytes) -> bytes:
        return body

    decorated = reqtt.responder(topic, qos=target.qos, concurrency=10_000)(echo)
    other = target.called(None)
    async with reqtt.Responder(target.url, decorated, **other.options(receive_maximum=65_535)):
        yield topic


async def _measure(
    target: Target, settings: dict[str, Any], timeout: float, tick: Callable[[], None]
) -> dict[str, Any]:
    payload = b"x" * settings["payload_size"]
    taken: list[float] = []
    failed: dict[str, int] = {}
    left = iter(range(settings["requests"]))

    async with (
        _responder(target, settings["topic"]) as topic,
        reqtt.Requester(target.url, qos=target.qos, timeout=timeout, **target.options()) as req,
    ):
        # Subscribes, and says at once what cannot work.
        await req.request(topic, payload)

        async def ask() -> None:
            for _ in left:
                try:
                    response = await req.request(topic, payload)
                except (reqtt.ResponseTimeout, reqtt.RemoteError) as error:
                    name = type(error).__name__
                    failed[name] = failed.get(name, 0) + 1
                else:
                    taken.append(response.latency * 1000)
                tick()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(settings["in_flight"], settings["requests"])):
                tasks.create_task(ask())
        seconds = time.perf_counter() - began
        url = req.client._connection.url
    return {
        "url": url,
        "settings": settings,
        "seconds": round(seconds, 4),
        "requests_per_second": round(len(taken) / seconds, 1),
        "latency_ms": percentiles(taken) if taken else {},
        "failed": failed,
        "versions": {
            "reqtt": reqtt.__version__,
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
        },
        "taken": taken,
    }


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    terminal = console(stderr=False)
    terminal.print(f"{result['requests_per_second']:,.0f} requests per second", markup=False)
    if result["latency_ms"]:
        table = Table(*("latency, ms", *result["latency_ms"]), box=None, pad_edge=False)
        table.add_row("", *(f"{value:.3f}" for value in result["latency_ms"].values()))
        terminal.print(table)
    for name, number in result["failed"].items():
        note(f"reqtt: {number} requests ended with {name}")


def _write(out: Path, result: dict[str, Any], taken: list[float]) -> None:
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    note(f"written: {out}")
    if taken:
        from reqtt.cli._plot import distribution

        settings = result["settings"]
        title = f"latency of {settings['requests']} requests, {settings['in_flight']} at a time"
        plot = out.with_suffix(".svg")
        plot.write_text(distribution(taken, title).alone(), encoding="utf-8")
        note(f"written: {plot}")
