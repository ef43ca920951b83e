"""A real Mosquitto (Debian's 2.0.11) with its own configuration on a free port. Knows processes, no MQTT."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HINT = (
    "the tests run against a real broker: `apt-get install mosquitto mosquitto-clients` (`make test` does it)"
)
PLUGIN = "mosquitto_dynamic_security.so"


class MosquittoMissing(AssertionError):
    pass


def program(name: str) -> str:
    """The path of one of Mosquitto's programs; fails, and says what to install, if it is not there."""
    path = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or shutil.which(name)
    if path is None:
        raise MosquittoMissing(f"{name} not found: {HINT}")
    return path


def dynamic_security_plugin() -> Path:
    for root in (Path("/usr/lib"), Path("/usr/local/lib")):
        for found in (*root.glob(PLUGIN), *root.glob(f"*/{PLUGIN}")):
            return found
    raise MosquittoMissing(f"{PLUGIN} not found: {HINT}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Mosquitto:
    """
    `with Mosquitto() as broker: broker.url`. Every option is one of mosquitto.conf(5):

    acl               lines of an acl_file. It refuses a PUBLISH with 0x87, and grants a SUBSCRIBE that
                      it never delivers on
    deny_subscribe    filters whose SUBSCRIBE gets 0x87 (the dynamic-security plugin; anonymous clients)
    deny_publish      filters whose PUBLISH gets 0x87 (the same plugin)
    users             name -> password; anonymous clients are then refused unless `allow_anonymous=True`
    persistence       keep sessions and messages over `restart()` (written at a clean stop; 2.0.11 writes only
                      the sessions of clients that connected with Clean Start 0)
    websockets, unix  one more listener; `ws_url`, `unix_url`
    listener          lines about the listener of `url`
    tls               (certificate file, key file) for one more listener; `tls_url`
    """

    def __init__(
        self,
        *,
        acl: Sequence[str] = (),
        deny_subscribe: Sequence[str] = (),
        deny_publish: Sequence[str] = (),
        users: Mapping[str, str] | None = None,
        allow_anonymous: bool | None = None,
        persistence: bool = False,
        websockets: bool = False,
        unix: bool = False,
        tls: tuple[str | Path, str | Path] | None = None,
        max_packet_size: int | None = None,
        max_inflight_messages: int | None = None,
        max_queued_messages: int | None = None,
        extra: Sequence[str] = (),
        listener: Sequence[str] = (),
    ) -> None:
        self.executable = program("mosquitto")
        self.directory = Path(tempfile.mkdtemp(prefix="mosquitto-"))
        self.port = free_port()
        self.ws_port = free_port() if websockets else None
        self.tls_port = free_port() if tls else None
        self.socket_path = self.directory / "s" if unix else None
        self._process: subprocess.Popen[bytes] | None = None

        anonymous = users is None if allow_anonymous is None else allow_anonymous
        lines = [
            "user root",  # else the files of this directory can not be read when the tests run as root
            "log_type all",
            "connection_messages true",
            f"allow_anonymous {str(anonymous).lower()}",
            f"persistence {str(persistence).lower()}",
            f"persistence_location {self.directory}/",
        ]
        if acl:
            lines.append(f"acl_file {self._file('acl', *acl)}")
        if users is not None:
            lines.append(f"password_file {self._passwords(users)}")
        if deny_subscribe or deny_publish:
            lines += [
                f"plugin {dynamic_security_plugin()}",
                f"plugin_opt_config_file {self._dynamic_security(deny_subscribe, deny_publish)}",
            ]
        for name, value in (
            ("max_packet_size", max_packet_size),
            ("max_inflight_messages", max_inflight_messages),
            ("max_queued_messages", max_queued_messages),
        ):
            if value is not None:
                lines.append(f"{name} {value}")
        lines += extra
        lines += [f"listener {self.port} 127.0.0.1", *listener]
        if self.ws_port:
            lines += [f"listener {self.ws_port} 127.0.0.1", "protocol websockets"]
        if self.socket_path:
            lines.append(f"listener 0 {self.socket_path}")
        if tls:
            lines += [f"listener {self.tls_port} 127.0.0.1", f"certfile {tls[0]}", f"keyfile {tls[1]}"]
        self._file("mosquitto.conf", *lines)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        assert self.ws_port, "started without websockets=True"
        return f"ws://127.0.0.1:{self.ws_port}/mqtt"

    @property
    def tls_url(self) -> str:
        assert self.tls_port, "started without tls="
        return f"mqtts://127.0.0.1:{self.tls_port}"

    @property
    def unix_url(self) -> str:
        assert self.socket_path, "started without unix=True"
        return f"unix://{self.socket_path}"

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, timeout: float = 10) -> Self:
        """Returns when every TCP listener accepts."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.executable, "-c", str(self.directory / "mosquitto.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + timeout
        for port in filter(None, (self.port, self.ws_port, self.tls_port)):
            while True:
                if self._process.poll() is not None:
                    raise AssertionError(f"mosquitto ended with {self._process.returncode}:\n{self.log}")
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        self.stop()
                        raise AssertionError(f"mosquitto does not accept on {port}:\n{self.log}") from None
                    time.sleep(0.005)
        return self

    def stop(self) -> None:
        """SIGTERM: disconnects the clients and writes the persistence file."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: nothing is said and nothing is written."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """The same port and configuration again; sessions survive with `persistence` and without `kill`."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stdout.write(
                f"--- {self.directory}/log\n{self.log[-8000:]}\n"
            )  # pytest shows it for a failure
        self.close()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def _file(self, name: str, *lines: str) -> Path:
        path = self.directory / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    def _passwords(self, users: Mapping[str, str]) -> Path:
        path = self._file("passwords")
        path.write_text("")
        for name, password in users.items():
            subprocess.run(
                [program("mosquitto_passwd"), "-b", str(path), name, password],
                check=True,
                capture_output=True,
            )
        return path

    def _dynamic_security(self, deny_subscribe: Sequence[str], deny_publish: Sequence[str]) -> Path:
        denied = [
            {"acltype": kind, "topic": topic, "priority": 10, "allow": False}
            for kind, topics in (("subscribePattern", deny_subscribe), ("publishClientSend", deny_publish))
            for topic in topics
        ]
        allowed = dict.fromkeys(
            ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"), True
        )
        config = {
            "defaultACLAccess": allowed,
            "clients": [],
            "roles": [{"rolename": "tests", "acls": denied}],
            "groups": [{"groupname": "anyone", "roles": [{"rolename": "tests"}], "clients": []}],
            "anonymousGroup": "anyone",
        }
        return self._file("dynamic-security.json", json.dumps(config))
