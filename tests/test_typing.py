"""What type checkers see of the package: the stub, and the types that are inferred through it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests" / "typing").glob("*.py"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_types_are_inferred_as_promised_and_wrong_use_is_refused_by_mypy() -> None:
    # Strict, it reports `# type: ignore` where there is nothing to ignore.
    done = run("mypy", "--strict", *FILES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(120)
def test_types_are_inferred_as_promised_and_wrong_use_is_refused_by_pyright() -> None:
    # pyproject.toml names the files, and says that it reports such a comment, too.
    done = run("basedpyright")
    assert done.returncode == 0, done.stdout + done.stderr


def test_stub_matches_the_native_module() -> None:
    done = run("mypy.stubtest", "reqtt._core")
    assert done.returncode == 0, done.stdout + done.stderr
