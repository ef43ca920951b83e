"""Child processes: their lines of JSON, their CPU time and memory. Knows nothing of what they do."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A measurement came to no figure."""


class Child:
    """A process that is ended by its own identifier when the block is left."""

    def __init__(
        self,
        what: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        ends_with_stdin: bool = True,
    ) -> None:
        self.what = what
        self._ends_with_stdin = ends_with_stdin
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self.pid = self._process.pid
        self._lines: queue.SimpleQueue[tuple[float, bytes] | None] = queue.SimpleQueue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put((time.monotonic(), line))
        self._lines.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        ways = [self._process.terminate, self._process.kill]
        if self._ends_with_stdin:
            ways.insert(0, lambda: None)
        for end in ways:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
                break
        self._reading.join(2)
        self._process.stdout.close()
        self._errors.close()

    def event(self, name: str, patience: float) -> dict[str, Any]:
        """Waits for this event; `at` is when it came. Failed, if something else happens."""
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise Failed(f'the {self.what} was not "{name}" within {patience:.0f} s{self._said()}') from None
        if line is None:
            raise Failed(f'the {self.what} ended before it was "{name}"{self._said()}')
        event: dict[str, Any] = json.loads(line[1])
        if event.pop("event") != name:
            raise Failed(f'the {self.what} said {line[1]!r} instead of "{name}"')
        return {**event, "at": line[0]}

    def go(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(f"the {self.what} ended{self._said()}") from None

    def alive(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """The end of what it wrote to its standard error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 500))
        return self._errors.read().decode(errors="replace").strip()

    def _said(self) -> str:
        """The last line: of a traceback the one that says what happened."""
        said = self.said()
        return f": {said.splitlines()[-1]}" if said else ""

    def cpu(self) -> float:
        """Seconds that its living threads have run, to the nanosecond: a tick of `stat` is 10 ms."""
        nanos = 0
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            # It may just have ended.
            with contextlib.suppress(OSError):
                nanos += int((thread / "schedstat").read_text().split()[0])
        return nanos / 1e9

    def memory(self, what: str = "VmRSS") -> float:
        """MiB that it has (VmRSS), or had at most (VmHWM)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / 1024
        return 0.0


def machine_busy() -> float:
    """CPU seconds that all processes of the machine have used, since it started."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / TICK
