"""The keyword arguments of `Client` and of `Requester.request`, for those who pass them on."""

from __future__ import annotations

from typing import TypedDict

from reqtt.auth import Authenticator, Text
from reqtt.client import Password, Properties, Reconnect, TlsOptions, Will

__all__ = ["ClientOptions", "RequestOptions"]


class ClientOptions(TypedDict, total=False):
    """What `Client(...)` takes besides the URL."""

    client_id: str | None
    username: Text
    password: Password
    tls: TlsOptions | bool | None
    keep_alive: int
    connect_timeout: float
    clean_start: bool
    session_expiry_interval: int
    receive_maximum: int
    maximum_packet_size: int
    topic_alias_maximum: int
    request_response_information: bool
    will: Will | None
    user_properties: Properties
    reconnect: Reconnect | None
    authenticator: Authenticator | None


class RequestOptions(TypedDict, total=False):
    """What `Requester.request` takes besides topic, payload and `response_type`."""

    timeout: float | None
    qos: int | None
    content_type: str | None
    payload_format_indicator: int | None
    user_properties: Properties
    message_expiry_interval: int | None
    correlation_data: bytes | None
    response_topic: str | None
    fail_fast: bool
