"""Everything breaks at random, for as long as you like: `python tests/faults/chaos.py --seconds 60 --seed 1`.

Two requesting and two responding processes, each behind a wire of its own, and a Mosquitto that keeps
sessions. The seed decides which faults come and when. At the end everything is mended, the requesters finish,
and the logs of all processes are held against each other: one table, and exit code 1 for a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.lab import OUTCOMES, Lab, Peer, Report

# Weights of the faults, and seconds between two of them.
FAULTS = {
    "cut": 18,
    "torn": 9,
    "fin": 18,
    "stall": 16,
    "half-open": 5,
    "lost up": 4,
    "lost down": 4,
    "bytes": 10,
    "delay": 9,
    "refuse": 4,
    "all cut": 4,
}
PAUSE = (0.5, 2.5)


@dataclass
class Chaos:
    lab: Lab
    seed: int
    kill_every: float
    counts: Counter[str] = field(default_factory=Counter)
    log: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._broker_next = self.rng.random() < 0.5
        self._mending: set[asyncio.Task[None]] = set()

    @property
    def peers(self) -> list[Peer]:
        return [*self.lab.requesters, *self.lab.responders]

    async def run(self, seconds: float) -> None:
        began = time.monotonic()
        next_kill = self.kill_every * self.rng.uniform(0.5, 1)
        while (elapsed := time.monotonic() - began) < seconds:
            if elapsed >= next_kill:
                next_kill += self.kill_every * self.rng.uniform(0.6, 1.2)
                await self.kill()
            else:
                await self.fault(self.rng.choices(list(FAULTS), list(FAULTS.values()))[0])
            await asyncio.sleep(self.rng.uniform(*PAUSE))
        for task in self._mending:
            task.cancel()
        await asyncio.gather(*self._mending, return_exceptions=True)
        for peer in self.peers:
            peer.wire.heal()

    def note(self, what: str) -> None:
        if self.log:
            sys.stderr.write(f"{time.monotonic():.3f} {what}\n")

    async def kill(self) -> None:
        downtime = self.rng.uniform(0, 1.5)
        broker_now, self._broker_next = self._broker_next, not self._broker_next
        if self.lab.mosquitto is not None and broker_now:
            self.note(f"kill broker, {downtime:.2f} s")
            self.counts["kills (broker)"] += 1
            await self.lab.kill_broker(downtime)
            return
        peer = self.rng.choice(self.lab.responders)
        self.note(f"kill {peer.name}, {downtime:.2f} s")
        self.counts["kills (responder)"] += 1
        await peer.kill()
        await asyncio.sleep(downtime)
        await peer.start(ready=False)  # the wires go on breaking while it connects

    async def fault(self, kind: str) -> None:
        peer, seconds = self.rng.choice(self.peers), self.rng.uniform(0.2, 3)
        wire = peer.wire
        self.note(f"{kind} {peer.name} {seconds:.2f} s")
        match kind:
            case "cut":
                self.counts["cuts (RST)"] += wire.cut()
            case "all cut":
                self.counts["cuts (RST)"] += sum(p.wire.cut() for p in self.peers)
            case "torn":
                for link in (links := wire.links):
                    link.tear()
                self.counts["cuts (RST)"] += len(links)
            case "fin":
                self.counts["cuts (FIN)"] += await wire.fin()
            case "stall":
                directions = self.rng.choice(((), ("up",), ("down",)))
                links = wire.links
                for link in links:
                    link.stall(*directions)
                self.counts["stalls"] += len(links)
                self.later(seconds, *(link.resume for link in links))
            case "half-open":
                links = wire.links
                for link in links:
                    link.halve()
                self.counts["half-open"] += len(links)
            case "lost up" | "lost down":
                links = wire.links
                for link in links:
                    link.lose("up" if kind == "lost up" else "down")
                self.counts["one way lost"] += len(links)
            case "bytes":
                wire.dribble()
                self.counts["byte by byte"] += 1
                self.later(seconds, lambda: wire.dribble(False))
            case "delay":
                wire.slow(self.rng.uniform(0.005, 0.1))
                self.counts["delays"] += 1
                self.later(seconds, lambda: wire.slow(0))
            case "refuse":
                wire.refusing = True
                self.counts["cuts (RST)"] += wire.cut()
                self.later(seconds / 2, wire.accept)

    def later(self, seconds: float, *mends: Callable[[], object]) -> None:
        async def work() -> None:
            await asyncio.sleep(seconds)
            for mend in mends:
                mend()

        task = asyncio.ensure_future(work())
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)


def table(seed: int, seconds: float, report: Report, counts: Counter[str]) -> str:
    def megabytes(values: list[int]) -> str:
        return f"{values[0] / 1e6:.1f} -> {values[-1] / 1e6:.1f} MB" if values else "?"

    kills = counts["kills (broker)"] + counts["kills (responder)"]
    rows: list[tuple[str, object]] = [
        ("seed, seconds", f"{seed}, {seconds:.0f}"),
        ("requests", f"{report.requests} ({report.requests / seconds:.0f}/s)"),
        *((f"  {name}", report.outcomes[name]) for name in OUTCOMES),
        ("cuts", f"{counts['cuts (RST)']} RST, {counts['cuts (FIN)']} FIN"),
        ("kills", f"{kills} ({counts['kills (broker)']} broker, {counts['kills (responder)']} responder)"),
        ("stalls", counts["stalls"]),
        ("half-open, one way lost", f"{counts['half-open']}, {counts['one way lost']}"),
        ("byte by byte, delays", f"{counts['byte by byte']}, {counts['delays']}"),
        ("reconnects", report.reconnects),
        ("executions", report.executions),
        ("redeliveries", report.redelivered),
        ("run again after a kill", report.again),
        ("run again after expiry", report.overdue),
        ("responses late", report.late),
        ("responses duplicate", report.duplicates),
        ("responses unmatched", report.unmatched),
        ("latest timeout", f"{report.latest:+.3f} s"),
        *((f"resident {name}", megabytes(values)) for name, values in sorted(report.rss.items())),
        ("violations", len(report.violations)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


async def chaos(
    seconds: float, seed: int, *, url: str = "none", workers: int = 50, keep: bool = False, log: bool = False
) -> tuple[Report, str]:
    """Runs it; gives the report and its table."""
    port = None if url == "none" else urlsplit(url).port or 1883
    async with Lab(port, keep=keep) as lab:
        for number in range(2):
            await lab.responder(number)
        await lab.requester("a", seed=seed, workers=workers, session=True)
        await lab.requester("b", seed=seed, workers=workers, session=False)
        began = time.monotonic()
        run = Chaos(lab, seed, kill_every=min(40.0, seconds / 5), log=log)
        await run.run(seconds)
        for peer in lab.requesters:
            peer.terminate()
        failed: list[str] = []
        for peer in (*lab.requesters, *lab.responders):
            if peer in lab.responders:
                peer.terminate()
            try:
                if code := await peer.ended(40):
                    failed.append(f"{peer.name}: exit code {code}")
            except TimeoutError:
                failed.append(f"{peer.name}: does not end")
        report = lab.report()
        report.violations.extend(failed)
        if report.violations:
            sys.stdout.write(lab.said())
        if keep:
            sys.stdout.write(f"logs: {lab.directory}\n")
        return report, table(seed, time.monotonic() - began, report, run.counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--url", default="none", help="a broker on this machine that is not to be killed (none: start one)"
    )
    parser.add_argument("--workers", type=int, default=50, help="in flight, for each requesting process")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    parser.add_argument("--log", action="store_true", help="say each fault on standard error")
    options = parser.parse_args()
    report, text = asyncio.run(
        chaos(
            options.seconds,
            options.seed,
            url=options.url,
            workers=options.workers,
            keep=options.keep,
            log=options.log,
        )
    )
    sys.stdout.write(f"{text}\n")
    for violation in report.violations[:100]:
        sys.stdout.write(f"  {violation}\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
