"""What a payload is: text, JSON, a picture, CSV by a codec of one's own; a Content Type that does not fit."""

from __future__ import annotations

import asyncio

from _broker import broker_url

import reqtt
from reqtt import Request, Response, responder


class Table(list[list[str]]):
    """Rows that travel as CSV."""


def to_csv(table: Table) -> bytes:
    return "".join(f"{','.join(row)}\n" for row in table).encode()


def from_csv(payload: bytes) -> Table:
    return Table(line.split(",") for line in payload.decode().splitlines())


reqtt.codecs.register("text/csv", types=[Table], encode=to_csv, decode=from_csv, payload_format_indicator=1)


@responder("camera/label")
async def label(body: dict[str, str], request: Request) -> str:
    return f"{body['room']}, asked in {request.content_type}"


@responder("camera/picture")
async def picture() -> Response:
    return Response(b"\x89PNG...", content_type="image/png")


@responder("camera/log")
async def log(body: Table) -> Table:
    return Table([*body, ["12:00", "door opened"]])


async def main(url: str) -> None:
    async with reqtt.Responder(url, [label, picture, log]), reqtt.Requester(url) as requester:
        requests = ("label", {"room": "hall"}), ("picture", b""), ("log", Table([["time", "event"]]))
        for name, payload in requests:
            response = await requester.request(f"camera/{name}", payload)
            kind = "UTF-8 text" if response.payload_format_indicator == 1 else "bytes"
            print(f"{name:<8} {response.content_type!s:<18} {kind:<11} {response.payload!r}")
        try:
            await requester.request("camera/label", b"<room/>", content_type="application/xml")
        except reqtt.UnsupportedContentType as error:
            print(f"refused  {error.status}: {error.message}")


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
