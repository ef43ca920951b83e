"""What a broker can and what this user may, found out by trying. Knows nothing of how it is shown."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import reqtt
from reqtt import _core
from reqtt.cli._numbers import percentiles
from reqtt.cli._output import milliseconds
from reqtt.cli._target import Target

__all__ = ["Finding", "Report", "examine"]

# Seconds for a message to come back before it counts as lost; more where the broker is far away.
_PATIENCE: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """`ok`: yes, no, or not known (None). With a no: what it costs, and what to set. `needed` ones are what
    requests cannot do without.
    """

    name: str
    ok: bool | None
    value: str
    cost: str = ""
    fix: str = ""
    needed: bool = False


@dataclasses.dataclass(slots=True)
class Report:
    """All that was found."""

    url: str
    client_id: str = ""
    findings: list[Finding] = dataclasses.field(default_factory=list)
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)
    round_trip_ms: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether requests work at all."""
        return all(finding.ok is not False for finding in self.findings if finding.needed)


async def examine(
    target: Target, *, count: int, prefix: str, forbidden: str | None
) -> AsyncIterator[tuple[str, Report]]:
    """Gives the report as it grows, with the name of the next step. What `connect` raises surfaces."""
    client = target.client(reconnect=None)
    report = Report(client._connection.url)
    yield "connecting", report
    began = time.perf_counter()
    async with client:
        took = time.perf_counter() - began
        connack = client.connack
        assert connack is not None
        report.client_id = client.client_id
        report.findings.append(Finding("Connection", True, milliseconds(took), needed=True))
        report.findings.append(_response_information(connack))
        report.limits = _limits(connack)
        report.findings += _limit_findings(connack)
        probe = _Probe(client, connack, target.qos)
        yield "response topic", report
        response_topic = await probe.response_topic()
        report.findings.append(response_topic)
        yield "requests", report
        topic = f"{prefix.rstrip('/')}/{secrets.token_hex(4)}"
        report.findings.append(await probe.request_topic(topic))
        report.findings.append(await probe.no_matching_subscribers(f"{topic}/nobody"))
        yield "subscriptions", report
        report.findings.append(await probe.shared(f"{topic}/shared"))
        report.findings += await probe.privacy(forbidden)
        yield "round trips", report
        if response_topic.ok:
            report.round_trip_ms = await probe.round_trips(count, f"{topic}/echo")
    yield "", report


def _response_information(connack: reqtt.ConnAck) -> Finding:
    name = "Response Information"
    if connack.response_information is not None:
        return Finding(name, True, connack.response_information)
    return Finding(
        name,
        False,
        "none: clients/<client id>/responses/<token> is used",
        "each client has to be allowed to subscribe to a topic that the broker does not know of",
        "nothing, or in the ACL: read clients/%c/responses/#; for responders write clients/+/responses/#",
    )


def _limits(connack: reqtt.ConnAck) -> dict[str, Any]:
    names = (
        "receive_maximum",
        "maximum_qos",
        "maximum_packet_size",
        "topic_alias_maximum",
        "retain_available",
        "wildcard_subscription_available",
        "subscription_identifiers_available",
        "shared_subscription_available",
        "server_keep_alive",
        "session_expiry_interval",
    )
    return {name: getattr(connack, name) for name in names}


def _limit_findings(connack: reqtt.ConnAck) -> list[Finding]:
    found = [
        Finding(
            "Receive Maximum",
            connack.receive_maximum >= 100,
            str(connack.receive_maximum),
            f"more than {connack.receive_maximum} unacknowledged requests wait inside this client",
            "max_inflight_messages (Mosquitto), max_inflight (EMQX)",
        ),
        Finding(
            "Maximum Packet Size",
            connack.maximum_packet_size is None or connack.maximum_packet_size >= 65_536,
            "no limit" if connack.maximum_packet_size is None else f"{connack.maximum_packet_size} bytes",
            "larger requests and responses are a PacketTooLarge",
            "max_packet_size (Mosquitto), mqtt.max_packet_size (EMQX)",
        ),
        Finding(
            "Maximum QoS",
            connack.maximum_qos >= 1,
            str(connack.maximum_qos),
            "a request that is lost is not sent again, and no PUBACK tells that nobody subscribes",
            "max_qos (Mosquitto), mqtt.max_qos_allowed (EMQX)",
        ),
    ]
    return [dataclasses.replace(item, cost="", fix="") if item.ok else item for item in found]


class _Probe:
    """Tries one thing after the other on one connection."""

    def __init__(self, client: reqtt.Client, connack: reqtt.ConnAck, qos: int) -> None:
        self._client = client
        self._qos = min(qos, connack.maximum_qos)
        self._connack = connack
        base = connack.response_information or f"clients/{client.client_id}/responses"
        self._own = f"{base.rstrip('/')}/{secrets.token_urlsafe(6)}"

    async def _comes_back(self, topic_filter: str, topic: str, qos: int | None = None) -> bool | str:
        """Whether what is published to a topic reaches a subscription of ours; a text: who refused."""
        try:
            async with self._client.subscribe(topic_filter, qos=self._qos) as messages:
                try:
                    await self._client.publish(topic, b"reqtt check", qos=self._qos if qos is None else qos)
                except reqtt.PublishError as error:
                    return f"PUBLISH refused: {_reason(error.reason_code)}"
                try:
                    async with asyncio.timeout(_PATIENCE):
                        async for message in messages:
                            if message.topic == topic:
                                return True
                except TimeoutError:
                    return False
                return False
        except reqtt.SubscribeError as error:
            return f"SUBSCRIBE refused: {_reason(error.reason_code)}"

    async def response_topic(self) -> Finding:
        name = "Own response topic"
        found = await self._comes_back(self._own, self._own)
        base = self._own.rpartition("/")[0]
        if found is True:
            return Finding(name, True, f"{base}/...", needed=True)
        fix = f"allow this user to read {base}/#, or request --response-topic and response_topic="
        if found is False:
            return Finding(
                name,
                False,
                f"{base}/...: SUBACK granted, nothing delivered",
                "every request ends with a timeout, although it was answered",
                fix,
                needed=True,
            )
        if found.startswith("PUBLISH"):
            # A requester need not write there; whether it may read cannot be told then.
            return Finding(
                name,
                None,
                f"{base}/...: {found}",
                "what comes there cannot be tried by this user alone",
                "nothing, if requests work: responders need to write there",
                needed=True,
            )
        return Finding(name, False, f"{base}/...: {found}", "no request can be made", fix, needed=True)

    async def request_topic(self, topic: str) -> Finding:
        name = "Request topic"
        found = await self._comes_back(topic, topic)
        if found is True:
            return Finding(name, True, topic)
        return Finding(
            name,
            None if found is not False else False,
            f"{topic}: {found or 'SUBACK granted, nothing delivered'}",
            "the rest cannot be tried there",
            "--topic with a prefix where this user may publish and subscribe",
        )

    async def no_matching_subscribers(self, topic: str) -> Finding:
        name = "0x10 No matching subscribers"
        try:
            code = (await self._client.publish(topic, b"", qos=1)).reason_code
        except (reqtt.PublishError, ValueError) as error:
            return Finding(name, None, f"not tried: {error}", "", "--topic with a prefix that is allowed")
        if code == 0x10:
            return Finding(name, True, "said at once")
        return Finding(
            name,
            False,
            f"PUBACK {_reason(code)}",
            "a request that nobody listens to takes its whole timeout",
            "nothing, if the broker cannot; or a subscriber to # hides it (a logger, a bridge, reqtt trace)",
        )

    async def shared(self, topic: str) -> Finding:
        name = "Shared subscriptions"
        cost = "responders cannot share their work: each one answers each request"
        if not self._connack.shared_subscription_available:
            return Finding(name, False, "the CONNACK says no", cost, "mqtt.shared_subscription = true (EMQX)")
        found = await self._comes_back(f"$share/reqtt-check/{topic}", topic)
        if found is True:
            return Finding(name, True, "delivered")
        known = None if isinstance(found, str) and found.startswith("PUBLISH") else False
        return Finding(
            name,
            known,
            found or "SUBACK granted, nothing delivered",
            cost,
            "allow $share/<group>/<filter> in the ACL",
        )

    async def privacy(self, forbidden: str | None) -> list[Finding]:
        """Whether the responses of others can be read, and whether a refusal is told."""
        other = f"clients/somebody-else-{secrets.token_hex(4)}/responses/{secrets.token_hex(4)}"
        found = await self._comes_back(other, other)
        private = Finding(
            "Responses of others are private",
            found is not True,
            "they can be read" if found is True else found or "nothing delivered",
            "" if found is not True else "everybody can read every response",
            "" if found is not True else "an ACL: read on clients/%c/responses/# only (Mosquitto: pattern)",
        )
        if forbidden is not None:
            found = await self._comes_back(forbidden, forbidden.replace("+", "x").replace("#", "x"))
        return [private, _honesty(found, forbidden)]

    async def round_trips(self, count: int, topic: str) -> dict[str, dict[str, float]]:
        """To the broker and back; and from a requester through the broker to a responder, and back."""
        taken = {"broker": await self._pings(count, self._own, self._own)}

        async def echo(body: bytes) -> bytes:
            return body

        with contextlib.suppress(reqtt.ReqttError):
            async with reqtt.Responder(self._client, reqtt.responder(topic)(echo)):
                taken["request"] = await self._pings(count, topic, self._own)
        return {name: percentiles(values) for name, values in taken.items() if values}

    async def _pings(self, count: int, topic: str, response_topic: str) -> list[float]:
        async with reqtt.Requester(self._client, response_topic=response_topic, qos=self._qos) as req:
            # The first ones subscribe, and warm up.
            for _ in range(3):
                await req.request(topic, b"ping", timeout=5)
            return [(await req.request(topic, b"ping", timeout=5)).latency * 1000 for _ in range(count)]


def _honesty(found: bool | str, forbidden: str | None) -> Finding:
    name = "A refused SUBSCRIBE is told"
    if isinstance(found, str) and found.startswith("SUBSCRIBE"):
        return Finding(name, True, found)
    if found is False:
        return Finding(
            name,
            False,
            "SUBACK granted, nothing delivered",
            "a responder that may not listen looks alive and never answers; a requester only times out",
            "Mosquitto: the dynamic-security plugin instead of acl_file",
        )
    what = "a topic that is forbidden" if forbidden is None else "another: this one is allowed"
    return Finding(name, None, "not tried: this user may read what was tried", "", f"--forbidden with {what}")


def _reason(code: int) -> str:
    return f"0x{code:02X} {_core.reason_name(code)}"
