"""A contract that both sides import: a typed call, a checked handler, and a request that is asked again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from _broker import broker_url

import reqtt


@dataclass
class Power:
    on: bool


@dataclass
class State:
    device: str
    on: bool


@reqtt.operation("cmnd/{device}/power", timeout=2, retry=reqtt.Retry(attempts=3, backoff=0.05))
async def set_power(device: str, body: Power) -> State:
    raise NotImplementedError


busy = ["lamp"]


@set_power.responder
async def power(device: str, body: Power) -> State:
    if device in busy:
        busy.remove(device)
        raise reqtt.RequestError(503, "still warming up")
    return State(device, body.on)


async def main(url: str) -> None:
    async with reqtt.Responder(url, [power]), reqtt.Requester(url) as requester:
        state = await set_power(requester, "lamp", Power(on=True))
        print(f"{state.device}: {'on' if state.on else 'off'} at the second attempt")
        try:
            await set_power(requester, "lamp/../kettle", Power(on=True))
        except reqtt.InvalidTopic as error:
            print(f"not sent: {error}")


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
