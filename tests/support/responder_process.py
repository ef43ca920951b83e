"""A reqtt responder in a process of its own: `responder_process.py URL FILTER MODE [CLIENT_ID [FILE]]`.

MODE: `hang` never returns from the handler, `echo` returns the payload, `quiet` too, `pid` also who it is. It
says READY and, in the first two, GOT <payload> for each request. A FILTER like $share/<group>/<filter> makes
it a member of that group. With a client id its session persists, and with a file so do requests and answers.
"""

from __future__ import annotations

import asyncio
import os
import sys

import reqtt


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(
    url: str, topic_filter: str, mode: str, client_id: str | None = None, file: str | None = None
) -> None:
    group, pid = None, b" %d" % os.getpid()
    if topic_filter.startswith("$share/"):
        _, group, topic_filter = topic_filter.split("/", 2)

    @reqtt.responder(topic_filter, group=group, concurrency=1000, deduplicate="disk" if file else True)
    async def handler(body: bytes) -> bytes:
        if mode in ("hang", "echo"):
            say(f"GOT {body.decode()}")
        if mode == "hang":
            await asyncio.Event().wait()
        return body + pid if mode == "pid" else body

    session = {} if client_id is None else {"clean_start": False, "session_expiry_interval": 300}
    async with reqtt.Responder(url, [handler], client_id=client_id, deduplicate_file=file, **session) as app:
        say("READY")
        await app.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
