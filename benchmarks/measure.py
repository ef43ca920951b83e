"""One measurement: a fresh broker, one responder, one requester, one load. Gives a row, whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.adapters import Adapter
from benchmarks.broker import LIMIT, mirror, mosquitto
from benchmarks.process import Child, Failed, machine_busy
from benchmarks.settings import PATIENCE, Settings

Row = dict[str, Any]
# Seconds that a process may take to its first response; 10,000 subscriptions are among it.
START = 60.0


def start(role: str, adapter: Adapter, settings: Settings, stack: ExitStack) -> Child:
    if adapter.flags is not None:
        settings = replace(settings, client_id=f"{settings.client_id}-{role}")
        command = [str(LIMIT), role, *adapter.flags, *settings.arguments()]
    else:
        command = [sys.executable, "-m", "benchmarks.worker", role, adapter.module]
        command += ["--uvloop"] * adapter.uvloop + settings.arguments()
    root = str(Path(__file__).resolve().parent.parent)
    # Byte code is to be written: else each cold start would compile the sources again.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return stack.enter_context(Child(role, command, env))


def measure(requester: Adapter, responder: Adapter | None, settings: Settings) -> Row:
    """`responder=None` measures the requester alone, against the mirror."""
    row: Row = {
        "requester": requester.name,
        "responder": responder.name if responder else "mirror",
        "settings": settings.__dict__ | {},
        "failed": "",
    }
    try:
        with ExitStack() as stack:
            row |= _measure(requester, responder, settings, stack)
    except Failed as failure:
        row["failed"] = str(failure)
    return row


def _measure(requester: Adapter, responder: Adapter | None, settings: Settings, stack: ExitStack) -> Row:
    broker, port = stack.enter_context(mosquitto() if responder else mirror())
    settings = replace(settings, port=port, client_id=f"bench{port}")
    children = {"broker": broker}
    empty = broker.memory()
    if responder:
        children["responder"] = start("responder", responder, settings, stack)
        ready = children["responder"].event("ready", START)["at"] - children["responder"].started
    else:
        ready = 0.0
    asking = children["requester"] = start("requester", requester, settings, stack)
    first = asking.event("first", START)
    row: Row = {
        "cold_ms": (first.pop("at") - asking.started) * 1e3,
        "ready_ms": ready * 1e3,
        **first,
        "open_mib": {name: child.memory() for name, child in children.items()},
        "empty_broker_mib": empty,
    }
    asking.event("warm", settings.warmup + 2 * PATIENCE)
    before, busy, began = {n: c.cpu() for n, c in children.items()}, machine_busy(), time.monotonic()
    own = time.process_time()
    asking.go()
    result = asking.event("result", 2 * settings.seconds + 3 * PATIENCE)
    wall = time.monotonic() - began
    used = {name: child.cpu() - before[name] for name, child in children.items()}
    others = machine_busy() - busy - sum(used.values()) - (time.process_time() - own)
    completed = result["completed"]
    row |= {name: value for name, value in result.items() if name != "at"}
    # Four digits are more than the next run will agree to.
    row["percentiles_us"] = [float(f"{value:.4g}") for value in result["percentiles_us"]]
    row["peak_mib"] = asking.memory("VmHWM")
    if responder:
        row["responder_peak_mib"] = children["responder"].memory("VmHWM")
    row["others"] = max(0.0, others / wall / (os.cpu_count() or 1))
    row["cpu"] = {name: seconds / wall for name, seconds in used.items()}
    failures = {name: result[name] for name in ("wrong", "timeouts", "errors") if result[name]}
    if failures or not completed:
        what = ", ".join(f"{count} {name}" for name, count in failures.items()) or "no response at all"
        raise_failed(f"{what} beside {completed} responses", result["error"])
    for name, child in children.items():
        if not child.alive():
            raise Failed(f"the {name} ended during the load: {child.said()}")
    row["rps"] = completed / result["seconds"]
    row["cpu_ms"] = {name: seconds * 1e6 / completed for name, seconds in used.items()}
    return row


def raise_failed(what: str, error: str) -> None:
    raise Failed(f"{what}: {error}" if error else what)


def cold(adapter: Adapter, responder: Adapter, settings: Settings) -> Row:
    """From the start of a process to its first response; there is no load."""
    row: Row = {"requester": adapter.name, "responder": responder.name, "failed": ""}
    row["settings"] = settings.__dict__ | {}
    try:
        with ExitStack() as stack:
            _, port = stack.enter_context(mosquitto())
            settings = replace(settings, port=port, client_id=f"bench{port}")
            answering = start("responder", responder, settings, stack)
            answering.event("ready", START)
            asking = start("requester", adapter, settings, stack)
            first = asking.event("first", START)
            row |= first | {"cold_ms": (first["at"] - asking.started) * 1e3}
            row["open_mib"] = {"requester": asking.memory()}
            # Its load is not of interest.
            os.kill(asking.pid, signal.SIGKILL)
    except Failed as failure:
        row["failed"] = str(failure)
    return row
