"""`reqtt check`: what this broker can, and what this user may."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

import typer

from reqtt.cli import _exit
from reqtt.cli._checks import Finding, Report, examine
from reqtt.cli._options import AsJson, UrlArgument, with_target
from reqtt.cli._output import console, emit_json, printable
from reqtt.cli._target import Target

__all__ = ["check"]


@with_target
def check(
    target: Target,
    address: UrlArgument = None,
    count: Annotated[int, typer.Option(min=1, help="How many round trips are measured.")] = 100,
    topic: Annotated[
        str, typer.Option(help="Prefix of the topics that are used; nothing is retained.")
    ] = "reqtt/check",
    forbidden: Annotated[
        str | None, typer.Option(metavar="FILTER", help="What this user must not read: is it refused?")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Find out what a broker can and what this user may: each "no" with what it costs and what to set.

    Exit code 1 where requests cannot work at all.
    """
    report = asyncio.run(_examine(target.at(address), count, topic, forbidden, as_json))
    if as_json:
        emit_json({**dataclasses.asdict(report), "usable": report.usable}, indent=2)
    else:
        _show(report)
    return _exit.OK if report.usable else _exit.REMOTE


async def _examine(target: Target, count: int, topic: str, forbidden: str | None, as_json: bool) -> Report:
    terminal = console()
    steps = examine(target, count=count, prefix=topic, forbidden=forbidden)
    if as_json or not terminal.is_terminal:
        return [report async for _, report in steps][-1]
    with terminal.status("") as status:
        async for step, found in steps:
            status.update(f"{step} ...")
            report = found
    return report


def _show(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    terminal = console(stderr=False)
    terminal.print(Text(f"{printable(report.url)}  as {printable(report.client_id)}"))
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in report.findings:
        table.add_row(_mark(finding), Text(finding.name), _explained(finding))
    terminal.print(table)
    if report.round_trip_ms:
        terminal.print(_round_trips(report.round_trip_ms))
    limits = ", ".join(f"{name} {value}" for name, value in report.limits.items() if value is not None)
    terminal.print(Text(f"CONNACK: {limits}", style="dim"))


def _mark(finding: Finding) -> Any:
    from rich.text import Text

    word, style = {True: ("yes", "green"), False: ("no", "bold red"), None: ("?", "yellow")}[finding.ok]
    return Text(word, style=style)


def _explained(finding: Finding) -> Any:
    from rich.text import Text

    text = Text(printable(finding.value))
    if finding.cost:
        text.append(f"\ncosts: {finding.cost}", style="dim")
    if finding.fix:
        text.append(f"\nset: {printable(finding.fix)}", style="dim")
    return text


def _round_trips(found: dict[str, dict[str, float]]) -> Any:
    from rich.table import Table

    shown = ("min", "p50", "p90", "p99", "max")
    table = Table("round trip, ms", *shown, box=None, pad_edge=False)
    names = {"broker": "to the broker and back", "request": "request and response"}
    for name, values in found.items():
        table.add_row(names[name], *(f"{values[share]:.2f}" for share in shown))
    return table
