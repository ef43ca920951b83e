"""A phone switches the light in the bedroom on and off, then meets a missing lamp and a missing house."""

from __future__ import annotations

import asyncio
import textwrap

from _broker import broker_url

import reqtt

LIGHTS = {"light-in-bedroom": "OFF"}


def show(who: str, message: reqtt.Message, text: str, remark: str = "") -> None:
    correlation = (message.correlation_data or b"").decode()
    print(f"{who} -> {message.topic:<29} {text:<4} correlation {correlation}  {remark}".rstrip())


# A command is answered on the matching state topic, and nowhere else.
@reqtt.responder("cmnd/{light}/power", allowed_response_topics=("state/+/power",))
async def power(light: str, body: str, request: reqtt.Request) -> str:
    show("phone", request, body)
    if light not in LIGHTS:
        raise reqtt.RequestError(404, "no such light", data={"light": light})
    LIGHTS[light] = body
    return body


async def main(url: str) -> None:
    async with (
        reqtt.Responder(url, [power]),
        reqtt.Requester(url, response_topic="state/light-in-bedroom/power", timeout=2) as phone,
    ):
        for state in ("ON", "OFF"):
            response = await phone.request("cmnd/light-in-bedroom/power", state)
            show("light", response, response.text, f"{response.latency * 1000:.2f} ms")

        print("\nA lamp that does not exist:")
        try:
            await phone.request(
                "cmnd/light-in-cellar/power", "ON", response_topic="state/light-in-cellar/power"
            )
        except reqtt.NotFound as error:
            if error.response is not None:
                show("light", error.response, str(error.status), f"{error.message}: {error.data}")

        print("\nA house where nobody listens:")
        try:
            await phone.request("neighbour/light-in-bedroom/power", "ON")
        except (reqtt.NoMatchingSubscribers, reqtt.ResponseTimeout) as error:
            print(textwrap.fill(f"{type(error).__name__}: {error}", 100))


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
