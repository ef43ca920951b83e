"""What a figure was measured on, and whether it is worth measuring now."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.broker import mosquitto_program
from benchmarks.process import machine_busy

# The share of the machine's CPU time that others may use before it is worth a word.
CALM = 0.1


def refuse_debug_build() -> None:
    """SystemExit, if the native module is not an optimised one."""
    import reqtt
    from reqtt import _core

    if _core.DEBUG:
        raise SystemExit(
            f"reqtt in {Path(reqtt.__file__).parent} is a debug build, several times slower:"
            " `make build` makes a release build"
        )


def others_share(seconds: float = 1.0) -> float:
    """The share of all CPUs that is in use now, while this process sleeps."""
    before, began = machine_busy(), time.monotonic()
    time.sleep(seconds)
    return (machine_busy() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)


def describe(packages: Iterable[str]) -> dict[str, Any]:
    return {"date": datetime.date.today().isoformat(), "machine": _machine(), "versions": _versions(packages)}


def _machine() -> dict[str, Any]:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "others": round(others_share(), 3),
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    import reqtt

    found = {"python": platform.python_version(), "reqtt": reqtt.__version__}
    for package in sorted(set(packages) - {"reqtt"}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise SystemExit(
                f"{package} is not installed in {sys.prefix}: `make bench` installs what"
                " benchmarks/requirements.txt names, or leave it out with --adapters"
            ) from None
    help_text = subprocess.run([mosquitto_program(), "-h"], capture_output=True, text=True).stdout
    found["mosquitto"] = help_text.split("\n", 1)[0].removeprefix("mosquitto version ").strip()
    return found
