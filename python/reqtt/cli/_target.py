"""Which broker, and as whom. Can be sent to another process; never printed with its password."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import reqtt

if TYPE_CHECKING:
    from reqtt._options import ClientOptions

__all__ = ["Target"]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The options that all commands have in common."""

    url: str = dataclasses.field(default="mqtt://localhost:1883", repr=False)
    client_id: str | None = None
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_server_name: str | None = None
    tls_insecure: bool = False
    connect_timeout: float = 5.0
    qos: int = 1

    def at(self, url: str | None) -> Self:
        """The same, at another address, if one is given."""
        return self if url is None else dataclasses.replace(self, url=url)

    def called(self, client_id: str | None) -> Self:
        """The same, under another client identifier."""
        return dataclasses.replace(self, client_id=client_id)

    def options(self, **more: Any) -> ClientOptions:
        """What a `Client` takes besides the URL. Raises ValueError for a file that is not there."""
        options: ClientOptions = {"connect_timeout": self.connect_timeout, **more}  # type: ignore[typeddict-item]
        for name in ("client_id", "username", "password"):
            value = getattr(self, name)
            if value is not None:
                options[name] = value
        tls = self._tls()
        if tls is not None:
            options["tls"] = tls
        return options

    def client(self, **more: Any) -> reqtt.Client:
        """A client, not yet connected."""
        return reqtt.Client(self.url, **self.options(**more))

    def _tls(self) -> reqtt.TlsOptions | None:
        files = {"--tls-ca": self.tls_ca, "--tls-cert": self.tls_cert, "--tls-key": self.tls_key}
        for option, path in files.items():
            if path is not None and not os.access(path, os.R_OK):
                raise ValueError(f"{option} {path}: there is no such file that can be read")
        if not any(files.values()) and self.tls_server_name is None and not self.tls_insecure:
            return None
        return reqtt.TlsOptions(
            ca=None if self.tls_ca is None else Path(self.tls_ca),
            cert=None if self.tls_cert is None else Path(self.tls_cert),
            key=None if self.tls_key is None else Path(self.tls_key),
            server_name=self.tls_server_name,
            verify=not self.tls_insecure,
        )
