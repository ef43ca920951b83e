"""What one measurement is set to, as a value and as the arguments of its processes. Knows no library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

# A payload begins with the number of its request in so many digits.
DIGITS = 16
# Seconds after which a request without a response has failed.
PATIENCE = 10.0


@dataclass(frozen=True)
class Settings:
    port: int = 0
    topic: str = "bench/echo"
    response_topic: str = "bench/answers"
    client_id: str = "bench"
    qos: int = 1
    in_flight: int = 1
    payload: int = 16
    seconds: float = 2.0
    warmup: float = 0.3
    # Requests per second, whatever comes back; 0: the next one follows a response.
    rate: float = 0.0
    # A thread of the requester's process computes in Python all the time.
    hog: bool = False
    # Bodies are JSON objects.
    json: bool = False
    # How reqtt's handler is written: "bytes", "def" (a worker thread), "json" (a typed argument) or "stream"
    # (a request takes the next item of one stream).
    handler: str = "bytes"
    # How many of each there are in one process.
    requesters: int = 1
    connections: int = 1
    filters: int = 1

    def arguments(self) -> list[str]:
        found: list[str] = []
        for field in dataclasses.fields(self):
            name, value = "--" + field.name.replace("_", "-"), getattr(self, field.name)
            if value is True:
                found.append(name)
            elif value is not False:
                found += [name, str(value)]
        return found

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        kinds: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        rest = iter(arguments)
        for argument in rest:
            name = argument.removeprefix("--").replace("-", "_")
            values[name] = True if kinds[name] is bool else kinds[name](next(rest))
        return cls(**values)

    def bodies(self) -> list[bytes]:
        """In turn for one request after the other; no two in flight are the same."""
        count = max(4096 if self.payload <= 4096 else 8, 2 * self.in_flight)
        if self.json:
            return [b'{"number":"%0*d"}' % (DIGITS, number) for number in range(count)]
        padding = b"x" * (self.payload - DIGITS)
        return [b"%0*d" % (DIGITS, number) + padding for number in range(count)]
