"""What type checkers see of the package: the stub, and the types that are inferred through it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_types_are_inferred_as_promised() -> None:
    done = run("mypy", "--strict", "tests/typing/inference.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_stub_matches_the_native_module() -> None:
    done = run("mypy.stubtest", "reqtt._core")
    assert done.returncode == 0, done.stdout + done.stderr
