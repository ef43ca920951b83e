"""A pump loses power with a request in its hands. Its session keeps the request, and the next start answers it."""

from __future__ import annotations

import asyncio
import sys

from _broker import broker_url

import reqtt

# A process of its own, so that it can be ended without a word. clean_start=False takes up the broker's session of this
# client identifier, session_expiry_interval keeps it for a minute.
PUMP = """
import asyncio, sys, reqtt
life = sys.argv[2]
@reqtt.responder("pump/empty")
async def empty(body: str, request: reqtt.Request) -> str:
    print(f"{life} life: got {body!r}, delivered before: {request.dup}", flush=True)
    await asyncio.sleep(60 if life == "first" else 0)
    return f"the {body} is empty (said in my {life} life)"
async def main():
    options = {"client_id": "pump", "clean_start": False, "session_expiry_interval": 60}
    async with reqtt.Client(sys.argv[1], **options) as client:
        print(f"{life} life: session present: {client.connack.session_present}", flush=True)
        async with reqtt.Responder(client, [empty]):
            print(f"{life} life: ready", flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""


async def start(url: str, life: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUMP, url, life, stdout=asyncio.subprocess.PIPE
    )


async def follow(pump: asyncio.subprocess.Process, word: str) -> None:
    """Prints what the pump says, until it says this."""
    assert pump.stdout is not None
    line = ""
    while word not in line:
        line = (await pump.stdout.readline()).decode()
        print(line, end="")


async def main(url: str) -> None:
    async with reqtt.Requester(url, timeout=20) as requester:
        pump = await start(url, "first")
        await follow(pump, "ready")
        response = asyncio.ensure_future(requester.request("pump/empty", "cellar"))
        await follow(pump, "got")
        pump.kill()
        await pump.wait()
        print("the power is gone; whoever asked still waits")
        pump = await start(url, "second")
        await follow(pump, "got")
        print((await response).text)
        pump.kill()
        await pump.wait()


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
