"""TLS: a broker whose certificate is known, one that is not, and one under another name (needs `trustme`)."""

from __future__ import annotations

import asyncio
import ssl
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import trustme
from _broker import broker_url

import reqtt


@asynccontextmanager
async def tls_in_front_of(url: str, certificate: trustme.LeafCert) -> AsyncGenerator[str]:
    """What a broker or its proxy does itself: ends TLS, and passes the bytes on."""
    broker = urlsplit(url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(broker.hostname, broker.port)
        with suppress(asyncio.CancelledError, OSError):
            await asyncio.gather(pump(reader, upstream[1]), pump(upstream[0], writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        yield f"mqtts://localhost:{server.sockets[0].getsockname()[1]}"


async def attempt(what: str, url: str, tls: reqtt.TlsOptions) -> None:
    try:
        async with reqtt.Client(url, tls=tls, connect_timeout=3, reconnect=None) as client:
            print(f"{what:<20} connected as {client.client_id!r}")
    except reqtt.ConnectError as error:
        print(textwrap.shorten(f"{what:<20} {error}", 150))


async def main(url: str) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    known, unknown = (ca.cert_pem.bytes() for ca in (authority, stranger))
    async with tls_in_front_of(url, authority.issue_cert("localhost", "broker.example")) as secure:
        await attempt("known authority:", secure, reqtt.TlsOptions(ca=known))
        await attempt("unknown authority:", secure, reqtt.TlsOptions(ca=unknown))
        await attempt("another name:", secure, reqtt.TlsOptions(ca=known, server_name="evil.example"))
        await attempt("its other name:", secure, reqtt.TlsOptions(ca=known, server_name="broker.example"))


if __name__ == "__main__":
    with broker_url(__doc__) as url:
        asyncio.run(main(url))
