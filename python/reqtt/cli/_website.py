"""The files of a page on 127.0.0.1, its facts, and the buttons that act on this process. Knows no MQTT."""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from typing import Any, Final

__all__ = ["website"]

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/sequence.js": ("sequence.js", "text/javascript; charset=utf-8"),
    "/mqtt.min.js": ("mqtt.min.js", "text/javascript; charset=utf-8"),
    "/mqtt.LICENSE.md": ("mqtt.LICENSE.md", "text/plain; charset=utf-8"),
}


@contextlib.contextmanager
def website(
    port: int, facts: Mapping[str, Any], connect: str, buttons: Mapping[str, Callable[[], None]]
) -> Iterator[str]:
    """Serves the page in a thread, and gives its address; port 0 takes any that is free.

    The page finds `facts` at /facts.json and may connect to the origin `connect`, else to nothing but this
    site. A POST to a key of `buttons` calls it, in a thread. Raises `OSError` where the port is taken.
    """
    folder = files("reqtt.cli") / "web"
    content = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
    content["/facts.json"] = (json.dumps(facts).encode(), "application/json")
    # The worker is MQTT.js's timer for keep-alive, which is not slowed down in a tab behind others.
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; worker-src blob:;"
        f" connect-src 'self' {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    class Handler(BaseHTTPRequestHandler):
        # A browser opens connections ahead, on which it says nothing.
        timeout = 30

        def do_GET(self) -> None:
            if self._is_ours():
                body, kind = content.get(self.path.partition("?")[0], (None, ""))
                if body is None:
                    self._answer(404, b"There is no such file.\n")
                else:
                    self._answer(200, body, kind)

        def do_POST(self) -> None:
            # Any page that the browser shows can POST to this address; its Origin tells it apart.
            if self._is_ours() and self.headers.get("Origin") == f"http://{self.headers['Host']}":
                button = buttons.get(self.path)
                if button is None:
                    self._answer(404, b"There is no such button.\n")
                    return
                button()
                self._answer(204, b"")
            else:
                self._answer(403, b"Only the page itself may do this.\n")

        def _is_ours(self) -> bool:
            """Not the name of a stranger that leads to this address."""
            port = self.connection.getsockname()[1]
            if self.headers.get("Host") in (f"127.0.0.1:{port}", f"localhost:{port}"):
                return True
            if self.command == "GET":
                self._answer(403, b"This is a page of 127.0.0.1 only.\n")
            return False

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the terminal shows requests over MQTT."""

    with _Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="reqtt-web", daemon=True
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # On Windows it would let two programs share the port.
    allow_reuse_address = os.name == "posix"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser may leave in the middle of an answer."""
