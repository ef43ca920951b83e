"""The blocking twin: the same names, arguments, results and exceptions, without an event loop.

    with reqtt.blocking.Requester("mqtt://localhost:1883") as req:
        print(req.request("cmnd/light-in-bedroom/power", "ON", timeout=2).text)

For scripts, notebooks and threads. A call waits in the core, without the interpreter: other threads run, and
any number of them may use one connection at a time. `KeyboardInterrupt` ends a wait at once. On a thread that
runs an event loop a call is a `RuntimeError`, as it would stop that loop.
"""

from __future__ import annotations

from reqtt.blocking.client import Client, Events, Subscription
from reqtt.blocking.requester import Gather, Requester, Stream
from reqtt.blocking.responder import Middleware, Responder

__all__ = ["Client", "Events", "Gather", "Middleware", "Requester", "Responder", "Stream", "Subscription"]
