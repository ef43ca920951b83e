"""What an error looks like on the wire, and what a requester makes of a response's status."""

import copy
import json
import pickle

import pytest

from reqtt import errors
from reqtt._core import Response
from reqtt._status import error_from_response, error_reply, wire_status

PROBLEM = "application/problem+json"


def response(*properties, body=b"", content_type=None):
    return Response(body, content_type=content_type, user_properties=properties)


def test_response_without_status_is_a_success():
    assert error_from_response(response()) is None
    assert error_from_response(response(body=b'{"status":500}', content_type=PROBLEM)) is None


@pytest.mark.parametrize("status", ["200", "204", "299", " 200 "])
def test_status_of_the_2xx_is_a_success(status):
    assert error_from_response(response(("__stat", status))) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequest),
        (404, errors.NotFound),
        (408, errors.RemoteTimeout),
        (415, errors.UnsupportedContentType),
        (503, errors.RemoteUnavailable),
        (500, errors.RemoteError),
        (418, errors.RemoteError),
        (799, errors.RemoteError),
    ],
)
def test_status_from_400_on_is_a_remote_error_by_its_class(status, kind):
    error = error_from_response(response(("__stat", str(status))))
    assert type(error) is kind
    assert error.status == status
    assert error.message


@pytest.mark.parametrize(
    "status", ["abc", "", "4.5", "-1", "0x194", "٤٠٤", "99", "100", "302", "0", "4" * 5000]
)
def test_status_that_is_no_final_status_is_an_invalid_response(status):
    answer = response(("__stat", status))
    error = error_from_response(answer)
    assert type(error) is errors.InvalidResponse
    assert error.response is answer
    assert len(str(error)) < 300


def test_azure_properties_become_attributes():
    error = error_from_response(
        response(
            ("__stat", "500"),
            ("__apErr", "true"),
            ("__stMsg", "m"),
            ("AppErrCode", "E7"),
            ("AppErrPayload", '{"a":[1]}'),
        )
    )
    assert (error.status, error.message, error.application) == (500, "m", True)
    assert (error.code, error.data) == ("E7", {"a": [1]})


def test_application_is_false_unless_the_responder_says_true():
    assert error_from_response(response(("__stat", "500"))).application is False
    assert error_from_response(response(("__stat", "500"), ("__apErr", "false"))).application is False
    assert error_from_response(response(("__stat", "500"), ("__apErr", "TRUE"))).application is True


def test_error_payload_that_is_no_json_stays_text():
    assert error_from_response(response(("__stat", "500"), ("AppErrPayload", "{oops"))).data == "{oops"


def test_message_falls_back_to_detail_then_title_then_the_standard_words():
    def message(**body):
        answer = response(("__stat", "404"), body=json.dumps(body).encode(), content_type=PROBLEM)
        return error_from_response(answer).message

    assert message(detail="no lamp", title="t") == "no lamp"
    assert message(title="t") == "t"
    assert message() == "Not Found"


def test_code_and_data_are_read_from_the_body_where_no_property_gives_them():
    body = json.dumps({"code": 17, "data": {"x": 1}}).encode()
    error = error_from_response(
        response(("__stat", "400"), body=body, content_type="application/problem+json; charset=utf-8")
    )
    assert (error.code, error.data) == (17, {"x": 1})


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000, b'"text"'])
def test_broken_error_body_is_an_invalid_response_only_if_it_was_all_there_was(body):
    alone = error_from_response(response(("__stat", "500"), body=body, content_type=PROBLEM))
    assert type(alone) is errors.InvalidResponse
    told = error_from_response(
        response(("__stat", "500"), ("__stMsg", "why"), body=body, content_type=PROBLEM)
    )
    assert type(told) is errors.RemoteError
    assert told.message == "why"


def test_body_of_another_content_type_is_not_read_as_an_error_body():
    error = error_from_response(
        response(("__stat", "500"), body=b'{"detail":"x"}', content_type="text/plain")
    )
    assert error.message == "Internal Server Error"


def test_text_of_a_remote_error_names_status_topic_and_message():
    error = error_from_response(response(("__stat", "404"), ("__stMsg", "no such device")), "cmnd/x/power")
    assert str(error) == '404 Not Found from "cmnd/x/power": no such device'
    assert error.topic == "cmnd/x/power"
    assert str(error_from_response(response(("__stat", "404")))) == "404 Not Found"


def test_invalid_property_is_noted_on_the_error():
    error = error_from_response(
        response(("__stat", "415"), ("__propName", "Content Type"), ("__propVal", "x/y"))
    )
    assert error.__notes__ == ["about: Content Type = 'x/y'"]


def test_first_of_a_repeated_status_counts():
    assert error_from_response(response(("__stat", "404"), ("__stat", "500"))).status == 404


def round_trip(status, message, **facts):
    body, content_type, properties = error_reply(status, message, application=True, **facts)
    return error_from_response(
        response(("__stat", str(status)), *properties, body=body, content_type=content_type)
    )


@pytest.mark.parametrize("code", [None, "E_LAMP", 17, "17"])
@pytest.mark.parametrize("data", [None, {"device": "x"}, [1, 2], "text", 0, False])
def test_code_message_and_data_arrive_as_they_were_raised(code, data):
    error = round_trip(409, "busy - später", code=code, data=data)
    assert (error.status, error.message, error.code, error.data) == (409, "busy - später", code, data)
    assert type(error.code) is type(code)
    assert error.application is True


def test_error_reply_is_a_problem_body_with_azure_properties():
    body, content_type, properties = error_reply(
        415,
        "m",
        code="c",
        data={"a": 1},
        application=False,
        prop_name="Content Type",
        prop_value="x/y",
    )
    assert content_type == PROBLEM
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Unsupported Media Type",
        "status": 415,
        "detail": "m",
        "code": "c",
        "data": {"a": 1},
    }
    assert properties == [
        ("__stMsg", "m"),
        ("__apErr", "false"),
        ("__propName", "Content Type"),
        ("__propVal", "x/y"),
        ("AppErrCode", "c"),
        ("AppErrPayload", '{"a":1}'),
    ]


def test_absent_code_and_data_are_left_out():
    body, _, properties = error_reply(404, "m", application=True)
    assert set(json.loads(body)) == {"type", "title", "status", "detail"}
    assert properties == [("__stMsg", "m"), ("__apErr", "true")]


@pytest.mark.parametrize("data", [object(), {"a": object()}, "\ud800", {("a", 1): 2}])
def test_data_that_json_cannot_hold_is_left_out_and_logged_without_its_content(data, caplog):
    body, _, properties = error_reply(500, "m", data=data, application=True)
    assert "data" not in json.loads(body)
    assert "AppErrPayload" not in dict(properties)
    assert [record.name for record in caplog.records] == ["reqtt.responder"]


def test_data_that_contains_itself_does_not_break_the_reply(caplog):
    data = []
    data.append(data)
    assert "data" not in json.loads(error_reply(500, "m", data=data, application=True)[0])


def test_message_becomes_a_valid_mqtt_string():
    body, _, properties = error_reply(500, "a\x00b\nc\ud800" + "ü" * 70_000, application=True)
    message = dict(properties)["__stMsg"]
    assert message.startswith("a b c?")
    assert len(message.encode()) <= 65_535
    assert json.loads(body)["detail"].startswith("a\x00b\nc?")


def test_data_too_long_for_a_property_is_in_the_body_alone():
    data = "x" * 70_000
    body, _, properties = error_reply(500, "m", data=data, application=True)
    assert "AppErrPayload" not in dict(properties)
    assert json.loads(body)["data"] == data


def test_azure_peers_get_500_with_the_original_status_as_code():
    _, _, properties = error_reply(404, "m", application=True, interop_azure=True)
    assert dict(properties)["AppErrCode"] == "404"
    assert wire_status(404, True) == 500
    assert wire_status(404, False) == 404


@pytest.mark.parametrize("status", [200, 204, 400, 408, 415, 500, 503, 505])
def test_azure_statuses_stay_as_they_are(status):
    assert wire_status(status, True) == status
    assert "AppErrCode" not in dict(error_reply(status, "m", application=True, interop_azure=True)[2])


ERRORS = [
    errors.ReqttError("m"),
    errors.ConnectError("m", reason_code=0x87, reason_string="no"),
    errors.ConnectError("m"),
    errors.ConnectionLost("m", reason_code=0x8E),
    errors.ClientClosed("m"),
    errors.SubscribeError("m", topic_filter="a/#", reason_code=0x87),
    errors.PublishError("m", topic="a", reason_code=0x97, reason_string="quota"),
    errors.NoMatchingSubscribers("m", topic="a"),
    errors.ResponseTimeout("m", topic="a", timeout=2.5, phase="response"),
    errors.InvalidTopic("m"),
    errors.PacketTooLarge("m", size=10, maximum=5),
    errors.DecodeError("m"),
    errors.RemoteError("m", status=500, code="c", data={"a": 1}, application=True, topic="a"),
    errors.NotFound("m", status=404),
    errors.RequestError(404, "no such device", code=3, data={"device": "x"}),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_exceptions_survive_pickle_and_copy(error, duplicate):
    other = duplicate(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert other.args == error.args
    assert vars(other) == vars(error)


def test_exceptions_are_also_the_builtin_ones():
    assert issubclass(errors.ConnectError, ConnectionError)
    assert issubclass(errors.ConnectionLost, ConnectionError)
    assert issubclass(errors.ResponseTimeout, TimeoutError)
    for kind in (errors.DecodeError, errors.InvalidTopic, errors.PacketTooLarge):
        assert issubclass(kind, ValueError)
    assert issubclass(errors.NoMatchingSubscribers, errors.PublishError)
    assert errors.NoMatchingSubscribers("m", topic="a").reason_code == 0x10
    assert not issubclass(errors.RequestError, errors.ReqttError)


@pytest.mark.parametrize("status", [0, 200, 399, 600, -1])
def test_request_error_takes_error_statuses_only(status):
    with pytest.raises(ValueError, match="400 to 599"):
        errors.RequestError(status, "m")


@pytest.mark.parametrize("status", ["404", 404.0, True, None])
def test_request_error_status_is_an_int(status):
    with pytest.raises(TypeError):
        errors.RequestError(status, "m")
