"""What `tests/interop/install.sh` has installed, and the programs of it that run. Knows no MQTT."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
MADE = HERE / ".made"


class Missing(Exception):
    """A runtime or an installation that is not there, and what to do."""


def runtime(name: str) -> str:
    """The path of a language's own program."""
    found = shutil.which(name) or (f"/usr/local/go/bin/{name}" if name == "go" else None)
    if found is None or not Path(found).exists():
        raise Missing(f"{name} is not on this machine")
    return found


def there(path: Path) -> Path:
    """What the installation makes. Where CI installs, it must be there."""
    if path.exists():
        return path
    text = f"{path.relative_to(HERE)} is missing: run tests/interop/install.sh (`make interop` does)"
    if os.environ.get("CI"):
        raise AssertionError(text)
    raise Missing(text)


def go_module(folder: Path, module: str) -> str:
    """The version in go.mod."""
    found = re.search(rf"{re.escape(module)} v(\S+)", (folder / "go.mod").read_text())
    assert found, f"{folder}/go.mod does not name {module}"
    return found[1]


def crate(name: str) -> str:
    """The version in Cargo.lock."""
    found = re.search(rf'^name = "{name}"\nversion = "(.*)"', (HERE / "Cargo.lock").read_text(), re.MULTILINE)
    assert found, f"Cargo.lock does not name {name}"
    return found[1]


def debian(package: str) -> str:
    """The version that a Debian package is made of. A library in C may not know its own."""
    done = subprocess.run(
        [runtime("dpkg-query"), "--show", "--showformat=${Version}", package], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Missing(f"the Debian package {package} is not installed")
    return done.stdout.rpartition("-")[0] or done.stdout


def rust(name: str) -> list[str]:
    """The command of a program of the workspace."""
    runtime("cargo")
    return [str(there(MADE / "cargo" / "debug" / name))]


def java(name: str, main: str) -> list[str]:
    """The command of a program in Java."""
    command = runtime("java")
    classpath = there(MADE / f"{name}.classpath").read_text()
    # Small and quick to start: it is no benchmark.
    options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx512m"]
    return [command, *options, "-cp", f"{MADE / name / 'classes'}:{classpath}", main]


def pom(folder: Path) -> str:
    """The version in pom.xml."""
    found = re.search(r"<dependency>.*?<version>(.*?)</version>", (folder / "pom.xml").read_text(), re.DOTALL)
    assert found, f"{folder}/pom.xml has no dependency"
    return found[1]


def requirement(name: str) -> str:
    """The version of a Python peer."""
    text = (HERE / "clients" / "python" / "requirements.txt").read_text()
    found = re.search(rf"^{re.escape(name)}==(\S+)$", text, re.MULTILINE)
    assert found, f"requirements.txt does not name {name}"
    return found[1]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program, killed at the end."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_ready(process: subprocess.Popen[bytes], timeout: float = 20) -> None:
    """Until it prints the line `ready`."""
    assert process.stdout is not None
    said = b""
    while b"ready\n" not in said:
        waiting, _, _ = select.select([process.stdout], [], [], timeout)
        more = os.read(process.stdout.fileno(), 4096) if waiting else b""
        assert more, f"{process.args} did not get ready within {timeout} s; it said {said.decode()!r}"
        said += more
