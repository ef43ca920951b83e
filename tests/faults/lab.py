"""The fault lab: a broker that keeps sessions, a wire in front of each process, and what must hold after all.

`check` reads the logs that both sides wrote (`faults.peers`) and says what contradicts the promises: one
outcome for each request, in time, with its own payload; at most one run of a request in a responder's life.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faults.wire import Wire
from support.mosquitto import Mosquitto
from support.process import Child

PEERS = Path(__file__).with_name("peers.py")
OUTCOMES = ("response", "remote error", "timeout", "refusal", "cancellation", "connection error")
# What a timeout may be late by, where two cores carry a broker, four processes, and other people's work.
SLACK = 1.0


def persistent_mosquitto(**options: Any) -> Mosquitto:
    """Writes its sessions down each second, so that a SIGKILL costs it what is younger. No limits that would
    make it drop messages, and no log, which would be most of what it writes."""
    return Mosquitto(
        persistence=True,
        max_inflight_messages=0,
        max_queued_messages=0,
        extra=["autosave_interval 1", "log_dest none"],
        **options,
    )


@dataclass
class Report:
    """What the logs of both sides say together."""

    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latest: float = 0.0
    """Seconds by which the latest timeout was late."""
    executions: int = 0
    redelivered: int = 0
    """Executions of a delivery with DUP, and deliveries that were not executed because they had been."""
    again: int = 0
    """Requests that ran in more than one life."""
    overdue: int = 0
    """Second runs in one life when the request had expired, which is how long the first is remembered: a
    broker that rounds the expiry, or a wire that holds a copy up, brings one after that."""
    duplicates: int = 0
    late: int = 0
    unmatched: int = 0
    reconnects: int = 0
    rss: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    violations: list[str] = field(default_factory=list)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as log:
        for line in log:
            if line.endswith("\n"):  # a killed process may have got no further
                yield json.loads(line)


def check(requesters: Iterable[Path], responders: Iterable[Path], *, complete: bool = True) -> Report:
    """`complete`: the requesters have ended by themselves, so nothing may be missing."""
    report = Report()
    started: set[str] = set()
    for path in requesters:
        _check_requester(path, report, started, complete)
    for path in responders:
        _check_responder(path, report, started)
    return report


def _check_requester(path: Path, report: Report, started: set[str], complete: bool) -> None:
    bad = report.violations
    ended: set[str] = set()
    mine: set[str] = set()
    looked = False
    for line in lines(path):
        if "start" in line:
            mine.add(line["start"])
            report.requests += not line["probe"]
        elif "end" in line:
            ident, outcome = line["end"], line["outcome"]
            if ident in ended:
                bad.append(f"{ident}: a second outcome, {outcome}")
            ended.add(ident)
            if outcome not in OUTCOMES:
                bad.append(f"{ident}: {outcome} {line['wrong']}")
            elif line["wrong"]:
                bad.append(f"{ident}: {outcome}: {line['wrong']}")
            report.outcomes[outcome] += not line["probe"]
            over = line["took"] - line["timeout"]
            report.latest = max(report.latest, over)
            if over > SLACK:
                bad.append(f"{ident}: {outcome} {over:.2f} s after its timeout of {line['timeout']} s")
        elif "pending" in line:
            if line["pending"]:
                bad.append(f"{line['name']}: {line['pending']} pending when all had ended")
        elif "stats" in line:
            stats = line["stats"]
            report.late += stats["late"]
            report.duplicates += stats["duplicates"]
            report.unmatched += stats["unmatched"]
            report.reconnects += stats["reconnects"]
        elif "stuck" in line:
            bad.append(line["stuck"])
        elif "left" in line:
            looked = True
            bad.extend(f"{line['name']} left behind: {what}" for what in line["left"])
        elif "rss" in line:
            report.rss[path.stem].append(line["bytes"])
    bad.extend(f"{ident}: no outcome" for ident in sorted(mine - ended))
    if complete and not looked:
        bad.append(f"{path.stem}: the process did not come to its end")
    started |= mine


def _check_responder(path: Path, report: Report, started: set[str]) -> None:
    runs: dict[tuple[str, str], float] = {}  # until when it is remembered
    lives: dict[str, set[str]] = defaultdict(set)
    suppressed: dict[str, int] = {}
    reconnects: dict[str, int] = {}
    for line in lines(path):
        if "run" in line:
            ident, life, key = line["run"], line["life"], (line["life"], line["cd"])
            report.executions += 1
            report.redelivered += line["dup"]
            lives[ident].add(life)
            if ident not in started:
                report.violations.append(f"{ident}: ran, but nobody asked for it")
            if key in runs and line["t"] < runs[key] - 0.05:
                report.violations.append(f"{ident}: a second run, within {runs[key]:.3f}: {line}")
            report.overdue += key in runs
            runs[key] = line["t"] + (60.0 if line["left"] is None else line["left"])
        elif "stats" in line:
            suppressed[line["life"]] = line["stats"]["duplicates_suppressed"]
            reconnects[line["life"]] = line["stats"]["reconnects"]
            report.rss[path.stem].append(line["rss"])
    report.redelivered += sum(suppressed.values())
    report.reconnects += sum(reconnects.values())
    report.again += sum(len(of) > 1 for of in lives.values())


class Peer:
    """A process of the lab behind a wire of its own. It can be killed, and started again."""

    def __init__(self, lab: Lab, role: str, name: str, wire: Wire, options: dict[str, Any]) -> None:
        self.lab = lab
        self.role = role
        self.name = name
        self.wire = wire
        self.log = lab.directory / f"{name}.jsonl"
        self._options = options
        self._child: Child | None = None

    async def start(self, *, ready: bool = True) -> None:
        arguments = json.dumps({"url": self.wire.url, "log": str(self.log), **self._options})
        # What it says beside its lines (warnings of reqtt, tracebacks) is kept for whoever looks.
        with self.log.with_suffix(".err").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(PEERS),
                self.role,
                arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        self._child = Child(process)
        if ready:
            await self.line("READY")

    async def line(self, start: str, timeout: float = 20) -> str:
        assert self._child is not None
        return await self._child.line(start, timeout)

    async def kill(self) -> None:
        assert self._child is not None
        await self._child.end(signal.SIGKILL)

    def terminate(self) -> None:
        assert self._child is not None
        self._child.process.send_signal(signal.SIGTERM)

    async def ended(self, timeout: float) -> int:
        """The exit code after `terminate()`; raises TimeoutError."""
        assert self._child is not None
        async with asyncio.timeout(timeout):
            return await self._child.process.wait()

    async def close(self) -> None:
        if self._child is not None:
            await self._child.end(signal.SIGKILL)


class Lab:
    """`async with Lab() as lab: ...`: a broker with persistence, peers behind wires, and their logs."""

    def __init__(self, port: int | None = None, *, keep: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fault-lab-"))
        self.mosquitto = persistent_mosquitto() if port is None else None
        self.port = port if self.mosquitto is None else self.mosquitto.port
        self.keep = keep
        self.requesters: list[Peer] = []
        self.responders: list[Peer] = []
        self._stack = AsyncExitStack()

    async def wire(self) -> Wire:
        assert self.port is not None
        return await self._stack.enter_async_context(Wire(self.port))

    async def responder(self, number: int = 0, **options: Any) -> Peer:
        peer = Peer(
            self, "responder", f"responder-{number}", await self.wire(), {"number": number, **options}
        )
        self._stack.push_async_callback(peer.close)
        self.responders.append(peer)
        await peer.start()
        return peer

    async def requester(self, name: str, **options: Any) -> Peer:
        peer = Peer(self, "requester", f"requester-{name}", await self.wire(), {"name": name, **options})
        self._stack.push_async_callback(peer.close)
        self.requesters.append(peer)
        await peer.start()
        return peer

    async def kill_broker(self, downtime: float = 0) -> None:
        """SIGKILL, and the same again after `downtime` seconds."""
        assert self.mosquitto is not None
        await asyncio.to_thread(self.mosquitto.kill)
        await asyncio.sleep(downtime)
        await asyncio.to_thread(self.mosquitto.start)

    def report(self, *own_logs: Path, complete: bool = True) -> Report:
        return check(
            [*own_logs, *(p.log for p in self.requesters)],
            [p.log for p in self.responders],
            complete=complete,
        )

    def said(self) -> str:
        """The last words on standard error of those who said any."""
        found = [(p.name, p.log.with_suffix(".err")) for p in (*self.requesters, *self.responders)]
        texts = [(name, path.read_text(errors="replace")) for name, path in found if path.exists()]
        return "\n".join(f"--- {name}\n{text[-3000:]}" for name, text in texts if text)

    async def __aenter__(self) -> Self:
        if self.mosquitto is not None:
            await asyncio.to_thread(self.mosquitto.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        if self.mosquitto is not None:
            await asyncio.to_thread(self.mosquitto.close)
        if kind is not None:
            sys.stdout.write(self.said())
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)


@asynccontextmanager
async def at_most(seconds: float, what: str) -> AsyncIterator[None]:
    """Fails a block that took longer; the block itself is not interrupted."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= seconds, f"{what} took {took:.2f} s, at most {seconds} s were allowed"
