"""One worker process of `reqtt serve`. Its stdin tells what to serve, in one line of JSON; the end of stdin
tells it to drain, which is also what happens when the process that started it dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading

from reqtt.cli import _exit
from reqtt.cli._log import set_up
from reqtt.cli._service import Service, handlers_of, run
from reqtt.responder import ResponderSpec


def main() -> int:
    """Serves until told to stop."""
    service = Service.from_dict(json.loads(_first_line()))
    set_up(as_json=service.log_json, level=service.log_level, worker=service.worker, pid=os.getpid())
    stdin = _take_stdin()
    try:
        return asyncio.run(_serve(service, handlers_of(service), stdin))
    except KeyboardInterrupt:
        return _exit.INTERRUPTED
    except Exception as error:
        logging.getLogger("reqtt.serve").error(_exit.line_of(error))  # noqa: TRY400
        return _exit.code_of(error)


async def _serve(service: Service, handlers: list[ResponderSpec], stdin: int) -> int:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def end() -> None:
        if not told.done():
            told.set_result(_exit.OK)

    def watch() -> None:
        while os.read(stdin, 4096):
            pass
        try:
            loop.call_soon_threadsafe(end)
        except RuntimeError:
            # It has ended already.
            return

    threading.Thread(target=watch, name="reqtt-supervisor", daemon=True).start()
    return await run(service, handlers, told)


def _first_line() -> bytes:
    """Unbuffered: a thread that waits in a buffer would hold its lock at the end."""
    line = bytearray()
    while not line.endswith(b"\n"):
        data = os.read(0, 1)
        if not data:
            raise SystemExit(_exit.USAGE)
        line += data
    return bytes(line)


def _take_stdin() -> int:
    """For ourselves: handlers and their children find nothing there."""
    stdin = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return stdin


if __name__ == "__main__":
    sys.exit(main())
