"""Proving who the client is: credentials that change, and enhanced authentication (section 4.12).

Owns what is asked of the user's code when the connection needs it. The packets are the core's.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from scramp import ScramClient

__all__ = ["Authenticator", "Scram", "Text", "resolve"]

T = TypeVar("T")
Text: TypeAlias = str | Callable[[], str | Awaitable[str]] | None
"""A text, or what gives it (`def` or `async def`) before each connect."""


@runtime_checkable
class Authenticator(Protocol):
    """Enhanced authentication by a method that the broker offers (section 4.12).

    `method` is its name, e.g. `SCRAM-SHA-256`. `start()` gives the data of CONNECT, and of each
    re-authentication; `challenge(data)` the answer to the broker's. The broker's last data goes through
    `challenge` too, and its result is not sent: raise there if the broker did not prove itself.

        class Token:
            method = "K8S-SAT"
            def start(self) -> bytes: return Path(TOKEN).read_bytes()
            def challenge(self, data: bytes) -> bytes: return b""
    """

    method: str

    def start(self) -> bytes:
        """The Authentication Data of CONNECT, and of each re-authentication (section 3.1.2.11.10)."""
        ...

    def challenge(self, data: bytes, /) -> bytes:
        """The answer to the broker's Authentication Data (section 3.15.2.2.3). Raise to end the attempt."""
        ...


class Scram:
    """SCRAM (RFC 5802, RFC 7677): proves the password without sending it, and has the broker prove that it
    knows it, too. Needs `pip install reqtt[scram]`.

    `method` is `SCRAM-SHA-256` (default), `SCRAM-SHA-512` or another that `scramp` knows.

        Client("mqtts://broker", authenticator=Scram("panel-7", password))
    """

    def __init__(self, username: str, password: str, *, method: str = "SCRAM-SHA-256") -> None:
        try:
            import scramp
        except ImportError as error:
            raise ImportError("Scram needs the package scramp: pip install 'reqtt[scram]'") from error
        self.method = method
        self._new: Callable[[], ScramClient] = lambda: scramp.ScramClient([method], username, password)
        self._client = self._new()
        self._answered = False

    def __repr__(self) -> str:
        return f"Scram(method={self.method!r})"

    def start(self) -> bytes:
        """The client's first message, with a fresh nonce."""
        self._client = self._new()
        self._answered = False
        return str(self._client.get_client_first()).encode()

    def challenge(self, data: bytes, /) -> bytes:
        """The client's final message; then checks the broker's signature. Raises when it is wrong."""
        if self._answered:
            self._client.set_server_final(data.decode())
            return b""
        self._client.set_server_first(data.decode())
        self._answered = True
        return str(self._client.get_client_final()).encode()


async def resolve(given: T | Callable[[], T | Awaitable[T]]) -> T:
    """The value, or what the callable gives now."""
    if not callable(given):
        return given
    value: Any = given()
    return await value if inspect.isawaitable(value) else value  # type: ignore[no-any-return]
