"""What stands between requester and responder: a Mosquitto of its own for each measurement, or the mirror."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import Child, Failed

HERE = Path(__file__).parent
LIMIT = HERE / "limit" / "target" / "release" / "limit"
# No limit of the broker's is to be what is measured, and no Nagle.
CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
log_type error
log_type warning
log_dest stderr
"""


def mosquitto_program() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SystemExit("mosquitto is not installed: tests/install-servers.sh does it on Debian and Ubuntu")
    return found


def build_limit() -> None:
    """Builds `benchmarks/limit`; SystemExit, if that does not work."""
    manifest, target = HERE / "limit" / "Cargo.toml", HERE / "limit" / "target"
    command = ["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", str(manifest)]
    try:
        subprocess.run([*command, "--target-dir", str(target)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the raw limit could not be built: {error}. It needs a Rust toolchain") from None


@contextlib.contextmanager
def mosquitto() -> Iterator[tuple[Child, int]]:
    """A Mosquitto that accepts connections, and its port."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)  # It leaves root's identity behind before it reads on.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        configuration = directory / "mosquitto.conf"
        configuration.write_text(CONFIGURATION.format(port=port))
        command = [mosquitto_program(), "-c", str(configuration)]
        broker = stack.enter_context(Child("broker", command, ends_with_stdin=False))
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if not broker.alive() or time.monotonic() > deadline:
                    raise Failed(f"Mosquitto did not start: {broker.said()}") from None
                time.sleep(0.01)
        yield broker, port


@contextlib.contextmanager
def mirror() -> Iterator[tuple[Child, int]]:
    """A server that answers requests itself, and its port."""
    with Child("mirror", [str(LIMIT), "mirror"]) as broker:
        yield broker, broker.event("ready", 10)["port"]
