"""`reqtt serve`: runs a responder service, in one process or several."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from reqtt.cli import _exit
from reqtt.cli._log import set_up
from reqtt.cli._options import with_target
from reqtt.cli._service import Service, handlers_of, run
from reqtt.cli._target import Target

__all__ = ["serve"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@with_target
def serve(
    target: Target,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:NAME]", help="A module, or a handler, list or Router in it.", show_default=False
        ),
    ],
    workers: Annotated[int, typer.Option(min=1, help="Processes, which share the requests.")] = 1,
    group: Annotated[
        str | None,
        typer.Option(
            help="Shared subscription of handlers that name none; with several workers: reqtt-MODULE.",
            show_default=False,
        ),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start anew when a .py file changes.")] = False,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that a worker has to answer what it has.")
    ] = 40.0,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request.")] = False,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    log_json: Annotated[bool, typer.Option("--json", help="Log lines are JSON.")] = False,
) -> int:
    """Run a responder service, until Ctrl-C or SIGTERM; what has been received is answered first.

    Workers that die are started again, after a delay that grows. Logs go to stderr.
    """
    if log_level.upper() not in _LEVELS:
        raise _exit.CommandError(f"--log-level {log_level}: use one of {', '.join(_LEVELS)}")
    if group is None and workers > 1:
        # Else each worker would answer each request.
        group = f"reqtt-{reference.partition(':')[0]}"
    service = Service(
        reference=reference,
        target=target,
        group=group,
        access_log=access_log,
        log_json=log_json,
        log_level=log_level.upper(),
    )
    set_up(as_json=log_json, level=service.log_level)
    if workers == 1 and not reload:
        return asyncio.run(run(service, handlers_of(service)))
    return asyncio.run(_supervise(service, workers, reload, drain_timeout))


async def _supervise(service: Service, workers: int, reload: bool, drain_timeout: float) -> int:
    from reqtt.cli._reload import changes
    from reqtt.cli._supervisor import Supervisor

    supervisor = Supervisor(service, workers, drain_timeout=drain_timeout)
    return await supervisor.run(changes(Path.cwd()) if reload else None)
