"""What is logged of a request says of which, in fields beside the text."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import pytest

import reqtt
from reqtt import Depends, RequestError, responder
from reqtt.cli._log import _JsonLines
from support.waiting import eventually

Factory = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize(
    "fault", ["fails", "asks in vain", "asks and is refused", "is given what it cannot read"]
)
async def test_a_record_about_a_request_has_fields(
    broker: Any,
    serving: Factory,
    requester: Factory,
    topic: str,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    req = await requester(broker)

    @responder(f"{topic}/refuses")
    async def refuses() -> None:
        raise RequestError(403, "no")

    @responder(f"{topic}/{{device}}/power")
    async def power(device: str, body: int = 0) -> None:
        match fault:
            case "fails":
                raise LookupError("secret-of-the-handler")
            case "asks in vain":
                await req.request(f"{topic}/nobody", timeout=0.05, fail_fast=False)
            case "asks and is refused":
                await req.request(f"{topic}/refuses")

    await serving(broker, power, refuses)
    with caplog.at_level(logging.DEBUG, "reqtt"), pytest.raises(reqtt.RemoteError):
        await req.request(f"{topic}/lamp/power", "payload-secret" if "read" in fault else "1")
    [record] = [record for record in caplog.records if record.name == "reqtt.responder"]
    fields: Any = record
    assert fields.topic == f"{topic}/lamp/power"
    assert fields.topic_filter == f"{topic}/{{device}}/power"
    assert fields.responder.endswith(".power")
    assert fields.topic in record.getMessage()
    assert "secret" not in record.getMessage()


async def test_a_dependency_that_fails_at_its_end_has_them_and_so_has_json(
    broker: Any, serving: Factory, requester: Factory, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def session() -> AsyncIterator[int]:
        yield 1
        raise LookupError

    @responder(topic)
    async def handler(session: Annotated[int, Depends(session)]) -> None: ...

    await serving(broker, handler)
    await (await requester(broker)).request(topic)
    await eventually(lambda: caplog.records)
    [record] = caplog.records
    line = json.loads(_JsonLines({"worker": 2}).format(record))
    assert (line["topic"], line["topic_filter"], line["worker"]) == (topic, topic, 2)
    assert line["responder"].endswith("handler")
    assert "LookupError" in line["exception"]


async def test_every_record_is_of_one_of_the_loggers(
    own_loopback: Any, serving: Factory, requester: Factory, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = own_loopback(response_information="rr/#")

    @responder(topic, allowed_response_topics=["never"])
    async def handler() -> None: ...

    with caplog.at_level(logging.DEBUG, "reqtt"):
        await serving(broker, handler)
        req = await requester(broker)
        with pytest.raises(reqtt.ResponseTimeout):
            await req.request(topic, timeout=0.2)
        broker.loopback.cut()
        with pytest.raises(reqtt.ReqttError):
            await req.request(f"{topic}/nobody")
    names = {record.name for record in caplog.records}
    assert {"reqtt.requester", "reqtt.responder"} <= names
    assert names <= {"reqtt.connection", "reqtt.requester", "reqtt.responder", "reqtt_loopback", "asyncio"}
