"""What the commands are made of, where a broker would only be in the way: pairing, numbers, text."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from reqtt import Request
from reqtt.cli import _exit
from reqtt.cli._numbers import percentiles, ticks
from reqtt.cli._output import one_line, preview
from reqtt.cli._page import asker, outcome_of, page
from reqtt.cli._pairing import Exchange, Pairing, Told
from reqtt.cli._plot import distribution, over_time


def question(number: int = 1, expiry: int | None = 5) -> Request:
    return Request(
        "cmnd/lamp",
        "ON",
        response_topic="clients/panel/responses/x",
        correlation_data=b"%d" % number,
        message_expiry_interval=expiry,
    )


def answer(number: int = 1, payload: str = "ON", **options: Any) -> Request:
    return Request("clients/panel/responses/x", payload, correlation_data=b"%d" % number, **options)


def outcome(told: object) -> str | None:
    assert told is None or isinstance(told, Told)
    return None if told is None else told.outcome


def test_a_request_and_its_response_are_a_pair() -> None:
    pairing = Pairing(10)
    exchange = pairing.take(question(), 0.0)
    assert isinstance(exchange, Exchange)
    assert pairing.open == 1
    assert outcome(pairing.take(answer(), 0.25)) == "answered"
    assert (exchange.latency, pairing.open, outcome_of(exchange)) == (0.25, 0, "answered")
    # Another one answers the same question.
    assert outcome(pairing.take(answer(payload="OFF", user_properties={"__stat": "409"}), 0.5)) == "error"
    assert [(a.payload, a.status) for a in exchange.answers] == [(b"ON", 200), (b"OFF", 409)]
    assert pairing.expire(6.0) == []


def test_a_copy_of_a_request_is_no_other_request() -> None:
    pairing = Pairing(10)
    assert isinstance(pairing.take(question(), 0.0), Exchange)
    assert pairing.take(question(), 0.1) is None
    assert isinstance(pairing.take(question(2), 0.2), Exchange)


@pytest.mark.parametrize(("expiry", "deadline"), [(5, 5.0), (None, 10.0)])
def test_unanswered_once_and_late_afterwards(expiry: int | None, deadline: float) -> None:
    pairing = Pairing(10)
    exchange = pairing.take(question(expiry=expiry), 0.0)
    assert isinstance(exchange, Exchange)
    assert pairing.expire(deadline - 0.1) == []
    assert outcome_of(exchange) == "open"
    assert [told.outcome for told in pairing.expire(deadline)] == ["unanswered"]
    assert pairing.expire(deadline + 1) == []
    assert outcome_of(exchange) == "unanswered"
    assert outcome(pairing.take(answer(), deadline + 2)) == "late"
    assert outcome_of(exchange) == "late"
    pairing.expire(deadline + 100)
    assert outcome(pairing.take(answer(), deadline + 101)) == "unknown"


def test_a_stream_is_not_late_once_it_has_begun() -> None:
    pairing = Pairing(10)
    exchange = pairing.take(question(expiry=1), 0.0)
    assert isinstance(exchange, Exchange)
    for number in range(2000):
        told = pairing.take(answer(user_properties={"rq-seq": str(number + 1)}), 0.5 + number * 0.1)
        assert outcome(told) == "answered"
        assert pairing.expire(0.5 + number * 0.1) == []
    assert (exchange.latency, len(exchange.answers)) == (0.5, 1000)


def test_other_messages_are_nothing() -> None:
    pairing = Pairing(10)
    assert pairing.take(Request("state/lamp", "ON"), 0.0) is None
    assert outcome(pairing.take(answer(7), 0.0)) == "unknown"


def test_what_is_remembered_is_bounded() -> None:
    pairing = Pairing(10)
    for number in range(10_050):
        pairing.take(question(number), 0.0)
    assert pairing.open == 10_000
    assert outcome(pairing.take(answer(0), 0.1)) == "unknown"
    assert outcome(pairing.take(answer(10_049), 0.1)) == "answered"


def test_who_asked() -> None:
    assert asker("clients/panel-7/responses/token") == "panel-7"
    assert asker("state/lamp/power") == "state/lamp/power"


def test_a_page_of_nothing_and_one_of_too_much() -> None:
    assert "0 requests" in page([], "#", "now")
    exchanges = [Exchange(f"t/{n}", "r", b"", float(n), n + 1.0) for n in range(150)]
    text = page(exchanges, "<&\"'>", "now")
    assert "<&" not in text
    assert "The latest 100; 50 earlier ones are left out." in text


def test_percentiles_are_measured_values() -> None:
    assert percentiles([5.0]) == dict.fromkeys(("min", "p50", "p90", "p99", "p99.9", "max"), 5.0)
    found = percentiles([float(number) for number in range(1000, 0, -1)])
    assert found == {"min": 1.0, "p50": 500.0, "p90": 900.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}


@pytest.mark.parametrize("maximum", [0.0, 1e-6, 0.3, 1.0, 1.1, 7.0, 19.9, 1234.0])
def test_ticks_reach_from_zero_to_the_maximum(maximum: float) -> None:
    found = ticks(maximum)
    assert found[0] == 0
    assert found[-1] >= maximum
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 12


def test_plots_are_pictures_by_themselves() -> None:
    for drawing in (distribution([1.0], "a <title>"), over_time([], "nothing")):
        ElementTree.fromstring(drawing.alone())


def test_text_of_others_is_harmless() -> None:
    assert one_line("a\nb\tc\x1b[2J\x9b\r\u202ex") == "a b c\\x1b[2J\\x9b\\x0d\\u202ex"
    assert preview(b"\xff\x00") == "2 bytes"
    assert preview("\u00e4".encode() * 200, 10) == "\u00e4" * 7 + "..."
    assert preview(b"short") == "short"


def test_a_defect_of_our_own_is_no_usage_error() -> None:
    assert _exit.code_of(LookupError("x")) == 70
    assert "please report it" in _exit.line_of(LookupError("x"))
