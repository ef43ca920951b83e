"""The broker of an example: that of `--url`, or else a loopback broker in this process."""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import contextmanager

from reqtt.testing import LoopbackBroker


@contextmanager
def broker_url(
    description: str | None, response_information: str | None = None
) -> Generator[str, None, None]:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", help="e.g. mqtt://localhost:1883 (default: a loopback broker)")
    url: str | None = parser.parse_args().url
    if url is not None:
        yield url
        return
    with LoopbackBroker(response_information=response_information) as broker:
        yield broker.url
