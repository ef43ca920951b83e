"""A device loses power: the broker sends its will, a watchdog answers it, a logbook reads the answer."""

from __future__ import annotations

import asyncio
import sys

from _broker import broker_url

import reqtt

# The device is a process of its own, so that it can be ended without a DISCONNECT.
DEVICE = """
import asyncio, sys, reqtt
will = reqtt.Will(
    "wills/panel-7", "gone", response_topic="wills/panel-7/handled", correlation_data=b"panel-7 #1"
)
async def main():
    async with reqtt.Client(sys.argv[1], client_id="panel-7", will=will):
        print("connected", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@reqtt.responder("wills/{device}", allowed_response_topics=("wills/+/handled",))
async def watchdog(device: str, body: str, request: reqtt.Request) -> str:
    print(f"watchdog: {device} is {body}, answer to {request.response_topic}")
    return f"a technician is on the way to {device}"


async def main(url: str) -> None:
    async with (
        reqtt.Responder(url, [watchdog]),
        reqtt.Client(url) as logbook,
        logbook.subscribe("wills/+/handled") as entries,
    ):
        device = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DEVICE, url, stdout=asyncio.subprocess.PIPE
        )
        assert device.stdout is not None
        print(f"device:   {(await device.stdout.readline()).decode().strip()}, now it loses power")
        device.kill()
        await device.wait()
        async with asyncio.timeout(10):
            entry = await anext(entries)
        print(f"logbook:  {entry.text} (correlation data {entry.correlation_data!r})")


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
