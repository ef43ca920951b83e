"""The light in the bedroom: phone and light on one broker, and what they say to each other."""

from __future__ import annotations

from collections.abc import Callable

import reqtt
from reqtt.cli._output import milliseconds

__all__ = ["play"]


async def play(url: str, say: Callable[[str], None]) -> None:
    """Twice the switch, then a lamp that does not exist, then a house where nobody listens."""
    lights = {"light-in-bedroom": "OFF"}

    def show(who: str, message: reqtt.Message, text: str, remark: str = "") -> None:
        correlation = (message.correlation_data or b"").decode()
        say(f"{who} -> {message.topic:<29} {text:<4} correlation {correlation}  {remark}".rstrip())

    # A command is answered on the matching state topic, and nowhere else.
    @reqtt.responder("cmnd/{light}/power", allowed_response_topics=("state/+/power",))
    async def power(light: str, body: str, request: reqtt.Request) -> str:
        show("phone", request, body)
        if light not in lights:
            raise reqtt.RequestError(404, "no such light", data={"light": light})
        lights[light] = body
        return body

    async with (
        reqtt.Responder(url, [power]),
        reqtt.Requester(url, response_topic="state/light-in-bedroom/power", timeout=2) as phone,
    ):
        for state in ("ON", "OFF"):
            response = await phone.request("cmnd/light-in-bedroom/power", state)
            show("light", response, response.text, milliseconds(response.latency))
        say("\nA lamp that does not exist:")
        try:
            cellar = "state/light-in-cellar/power"
            await phone.request("cmnd/light-in-cellar/power", "ON", response_topic=cellar)
        except reqtt.NotFound as error:
            if error.response is not None:
                show("light", error.response, str(error.status), f"{error.message}: {error.data}")
        say("\nA house where nobody listens:")
        try:
            await phone.request("neighbour/light-in-bedroom/power", "ON")
        except (reqtt.NoMatchingSubscribers, reqtt.ResponseTimeout) as error:
            say(f"{type(error).__name__}: {error}")
