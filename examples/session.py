"""A pump loses power with a request in its hands. Its session keeps it, and the next start answers it."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from _broker import broker_url

import reqtt

PUMP = """
import asyncio, sys, reqtt; life = sys.argv[2]
@reqtt.responder("pump/empty")
async def empty(body: str, request: reqtt.Request) -> str:
    print(f"{life} life: got {body!r}, delivered before: {request.dup}", flush=True)
    await asyncio.sleep(60 if life == "first" else 0)
    return f"the {body} is empty (said in my {life} life)"
async def main():
    # Take up the session of this client identifier, and keep it for a minute.
    session = {"client_id": "pump", "clean_start": False, "session_expiry_interval": 60}
    async with reqtt.Client(sys.argv[1], **session) as client:
        print(f"{life} life: session present: {client.connack.session_present}", flush=True)
        async with reqtt.Responder(client, [empty]):
            print(f"{life} life: ready", flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""


async def print_until(word: str, pump: asyncio.subprocess.Process) -> None:
    assert pump.stdout is not None
    async for line in pump.stdout:
        print(line.decode(), end="")
        if word in line.decode():
            return


async def main(url: str) -> None:
    async with reqtt.Requester(url, timeout=20) as requester:
        start = partial(asyncio.create_subprocess_exec, stdout=asyncio.subprocess.PIPE)
        pump = await start(sys.executable, "-c", PUMP, url, "first")
        await print_until("ready", pump)
        response = asyncio.ensure_future(requester.request("pump/empty", "cellar"))
        await print_until("got", pump)
        pump.kill()
        print(f"the power is gone (exit code {await pump.wait()}), the phone still waits")
        pump = await start(sys.executable, "-c", PUMP, url, "second")
        await print_until("got", pump)
        print((await response).text)
        pump.kill()
        await pump.wait()
    async with reqtt.Client(url, client_id="pump"):
        pass  # A clean start ends the session.


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
