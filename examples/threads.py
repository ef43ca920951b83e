"""No event loop: a responder of plain functions, and three threads that ask over one connection."""

from __future__ import annotations

import threading
import time

from _broker import broker_url

import reqtt
from reqtt import blocking


@reqtt.responder("cmnd/{device}/power")
def power(device: str, body: str) -> str:
    time.sleep(0.1)
    return f"{device} is {body}"


def main(url: str) -> None:
    with blocking.Responder(url, [power]), blocking.Requester(url) as requester:

        def switch(device: str) -> None:
            response = requester.request(f"cmnd/{device}/power", "ON", timeout=2)
            assert response.text == f"{device} is ON"

        threads = [threading.Thread(target=switch, args=(device,)) for device in ("lamp", "fan", "stove")]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"3 devices of 0.1 s each, together in {time.monotonic() - begun:.1f} s")
        print(requester.request("cmnd/lamp/power", "OFF", timeout=2).text)


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        main(url)
