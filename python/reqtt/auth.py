"""Proving who the client is: credentials that change, and enhanced authentication (section 4.12).

Owns what is asked of the user's code when the connection needs it. The packets are the core's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

if TYPE_CHECKING:
    from scramp import ScramClient

__all__ = ["Authenticator", "Scram", "Text", "answer_to", "credential", "data_from", "finish"]

T = TypeVar("T")
Text: TypeAlias = str | Callable[[], str | Awaitable[str]] | None
"""A text, or what gives it (`def` or `async def`) before each connect."""

MOST_ITERATIONS = 1_000_000
"""PBKDF2 runs on the event loop: a million takes 0.4 s with SHA-256, 0.9 s with SHA-512 (AMD EPYC,
CPython 3.11). scramp's own bound is ten times that."""


@runtime_checkable
class Authenticator(Protocol):
    """Enhanced authentication by a method that the broker offers (section 4.12).

    `method` is its name, e.g. `SCRAM-SHA-256`. `start()` gives the data of CONNECT, and of each
    re-authentication; `challenge(data)` the answer to the broker's. If the broker's last packet (CONNACK, or
    AUTH 0x00) has data, it goes through `challenge` too, and the result is not sent. Whatever raises ends the
    attempt. All are called on the event loop.

    A broker may leave its last data out. Where the method has the broker prove itself, add `finish()`: if
    there is one, it is called when the broker says success, before the connection is used. Raise there if
    the proof has not come.

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

    `method` is `SCRAM-SHA-256` (default), `SCRAM-SHA-512` or another that `scramp` knows, without channel
    binding. Raises `ValueError` where that, or the name or the password, will not do.

        Client("mqtts://broker", authenticator=Scram("panel-7", password))
    """

    def __init__(self, username: str, password: str, *, method: str = "SCRAM-SHA-256") -> None:
        try:
            import scramp
        except ImportError as error:
            raise ImportError("Scram needs the package scramp: pip install 'reqtt[scram]'") from error
        self.method = method
        self._error: type[Exception] = scramp.ScramException
        self._new: Callable[[], ScramClient] = lambda: scramp.ScramClient([method], username, password)
        self._next = "first"
        try:
            self._client = self._new()
        except scramp.ScramException as error:
            raise ValueError(f"Scram(method={method!r}): {error}") from None

    def __repr__(self) -> str:
        return f"Scram(method={self.method!r})"

    def start(self) -> bytes:
        """The client's first message, with a fresh nonce."""
        self._client = self._new()
        self._next = "first"
        return str(self._client.get_client_first()).encode()

    def challenge(self, data: bytes, /) -> bytes:
        """The client's final message; then checks the broker's signature. Raises when it is wrong."""
        message, expected = data.decode(errors="replace"), self._next
        try:
            if expected == "first":
                self._client.set_server_first(message)
                self._check_iterations(int(str(self._client.iterations)))
                self._next = "final"
                return str(self._client.get_client_final()).encode()
            self._client.set_server_final(message)
        except self._error as error:
            raise ValueError(f"{self.method}, the broker's {expected} message: {error}") from None
        self._next = "nothing"
        return b""

    def finish(self) -> None:
        """Raises unless the broker's signature came, and was right."""
        if self._next != "nothing":
            raise ValueError(
                f"{self.method}: the broker did not prove itself (no {self._next} message),"
                " so it may be another than it says"
            )

    def _check_iterations(self, iterations: int) -> None:
        if iterations > MOST_ITERATIONS:
            raise ValueError(
                f"{self.method}: the broker wants {iterations:,} iterations: have it store this password"
                f" with {MOST_ITERATIONS:,} at most"
            )


async def credential(name: str, given: T | Callable[[], T | Awaitable[T]], kinds: tuple[type, ...]) -> T:
    """The value, or what the callable gives now. Errors name the argument; none holds a value."""
    if not callable(given):
        return given
    try:
        value: Any = given() if _is_async(given) else await _in_thread(given)
        if inspect.isawaitable(value):
            value = await value
    except Exception as error:
        raise RuntimeError(f"{name}= raised {_told(error)}") from None
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name}= gave {type(value).__name__}: have it return {wanted}")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name}= gave a text with a lone surrogate, which MQTT does not carry: take it out")
    return cast("T", value)


def answer_to(name: str, function: Callable[..., Any], *given: bytes) -> bytes:
    """What this method of an authenticator says. Errors name it."""
    return data_from(name, _call(name, function, *given))


def data_from(name: str, value: Any) -> bytes:
    """Authentication Data as this method gave it."""
    if not isinstance(value, bytes | bytearray | memoryview):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"authenticator.{name}() gave {type(value).__name__}: have it return bytes")
    return bytes(value)


def finish(authenticator: Authenticator | None) -> None:
    """The broker says success: raises if the method has it that this is not true."""
    function = getattr(authenticator, "finish", None)
    if callable(function):
        _call("finish", function)


def _call(name: str, function: Callable[..., Any], *given: bytes) -> Any:
    try:
        return function(*given)
    except Exception as error:
        raise RuntimeError(f"authenticator.{name}() raised {_told(error)}") from None


def _told(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


async def _in_thread(function: Callable[[], T]) -> T:
    """The result of a function that may take its time: to read a file, to ask a server for a token.

    The thread is its own: in a pool it could wait for handlers that wait for this connection. What it gives
    is in no callback, future or task, whose text asyncio's debug mode logs.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    results: list[T] = []
    errors: list[BaseException] = []

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # raised where it is awaited
            errors.append(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell)

    run_here = contextvars.copy_context().run
    threading.Thread(target=run_here, args=(run,), name="reqtt-credentials", daemon=True).start()
    await done
    if errors:
        raise errors[0]
    return results[0]
