"""`reqtt demo --web` in a real browser: a lamp, a switch, and what the page says of each request."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import reqtt
from support.browser import Browser, chromium
from support.command import run, running
from support.process import Child

READY = "!document.querySelector('#switch').disabled && !document.querySelector('#run').disabled"
ON = "document.querySelector('#lamp').dataset.power === 'ON'"
OFF = "document.querySelector('#lamp').dataset.power === 'OFF'"
# Once each, in this order.
TO_THE_LAMP = ["phone-broker", "broker-lamp"]
AND_BACK = ["lamp-broker", "broker-phone"]


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
async def browser(started: Browser) -> AsyncIterator[Browser]:
    yield started
    await started.close_others()


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[Child, str]]:
    async with running("demo", "--web", *arguments) as demo:
        line = await demo.line("a lamp and a switch on ")
        yield demo, line.split()[6]


async def ended(demo: Child, how: signal.Signals) -> tuple[int, str]:
    """Its exit code, and what it said that no one has waited for."""
    demo.process.send_signal(how)
    assert demo.process.stdout is not None
    async with asyncio.timeout(5):
        rest = await demo.process.stdout.read()
        return await demo.process.wait(), rest.decode()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[str]:
    """The address of a demo, which is open in a tab, with the lamp off."""
    async with serving() as (_, address):
        await browser.open(address)
        await browser.until(f"{READY} && {OFF}")
        yield address


async def way(browser: Browser) -> list[str]:
    """The arrows, without the one of the PUBACK: it may come before or after the response."""
    script = "return [...document.querySelectorAll('.step:not(.quiet) .way')].map((it) => it.classList[1])"
    found: list[str] = await browser.run(script)
    return found


async def rows(browser: Browser) -> list[list[str]]:
    script = """return [...document.querySelectorAll('#history tr:not(.empty)')].map(
        (row) => [...row.cells].map((cell) => cell.textContent))"""
    found: list[list[str]] = await browser.run(script)
    return found


async def test_a_click_turns_the_lamp_on_and_shows_the_response(browser: Browser, page: str) -> None:
    await browser.click("#switch")
    await browser.until(f"{ON} && document.querySelector('#response').textContent === '200 ON'")
    assert await browser.text("#outcome") == "The lamp is ON."
    sent = await browser.text("#sent")
    assert len(bytes.fromhex(sent)) == 16
    assert await browser.text("#received") == sent
    assert (await browser.text("#latency")).endswith(" ms")
    assert await way(browser) == TO_THE_LAMP + AND_BACK
    assert await browser.run("return document.querySelector('#switch').ariaChecked") == "true"

    await browser.click("#switch")
    await browser.until(f"{OFF} && document.querySelector('#response').textContent === '200 OFF'")
    assert await browser.text("#sent") != sent
    assert [row[:3] for row in await rows(browser)] == [
        ["light-in-bedroom", "OFF", "OFF"],
        ["light-in-bedroom", "ON", "ON"],
    ]
    # Nothing was loaded from elsewhere, and the policy was not in the way of the page.
    assert await browser.complaints() == []


async def test_a_wrong_room_is_a_404(browser: Browser, page: str) -> None:
    await browser.type("#room", "light-in-cellar")
    await browser.click("#switch")
    await browser.until("document.querySelector('#response').textContent.startsWith('404')")
    assert await browser.text("#outcome") == "404 there is no such room"
    assert await browser.text("#received") == await browser.text("#sent")
    assert await way(browser) == TO_THE_LAMP + AND_BACK
    assert await browser.run(f"return {OFF}")


async def test_what_is_no_room_is_not_asked(browser: Browser, page: str) -> None:
    for room, problem in (
        ("", "Name a room."),
        ("+", "A room is one level of a topic: without / + #"),
        ("a/b", "A room is one level of a topic: without / + #"),
    ):
        await browser.run("document.querySelector('#outcome').textContent = ''")
        await browser.type("#room", room)
        await browser.click("#switch")
        assert await browser.text("#outcome") == problem
        assert (await way(browser), await rows(browser)) == ([], [])


async def test_without_a_responder_the_page_says_at_once_that_nobody_listens(
    browser: Browser, page: str
) -> None:
    await browser.click("#run")
    await browser.until("document.querySelector('#presence').textContent === 'The responder is stopped.'")
    await browser.until(READY)
    # Far below the timeout of 3 s.
    await browser.click("#switch")
    await browser.until("document.querySelector('#outcome').textContent === 'nobody is listening'", 1)
    assert await way(browser) == ["phone-broker", "broker-phone"]
    assert "PUBACK 0x10 No matching subscribers" in await browser.text("#steps")
    assert float((await browser.text("#latency")).split()[0]) < 1000

    await browser.click("#run")
    await browser.until("document.querySelector('#presence').textContent === 'The responder is running.'")
    await browser.click("#switch")
    await browser.until(ON)
    assert [row[2] for row in await rows(browser)][-1] == "nobody is listening (0x10)"


async def test_a_second_tab_sees_the_lamp_and_its_own_responses_only(browser: Browser, page: str) -> None:
    first, first_topic = await browser.tab(), await browser.text("#response-topic")
    second = await browser.open(page)
    await browser.until(READY)
    assert await browser.text("#response-topic") != first_topic
    await browser.click("#switch")
    await browser.until("document.querySelector('#response').textContent === '200 ON'")

    await browser.choose(first)
    await browser.until(ON)
    assert (await rows(browser), await way(browser)) == ([], [])
    assert await browser.text("#response") == "-"
    assert await browser.text("#dropped") == ""
    await browser.click("#switch")
    await browser.until("document.querySelector('#response').textContent === '200 OFF'")

    await browser.choose(second)
    await browser.until(OFF)
    assert [row[2] for row in await rows(browser)] == ["ON"]
    assert await browser.text("#dropped") == ""


async def test_a_response_to_what_was_not_asked_is_dropped(browser: Browser, page: str) -> None:
    await browser.click("#run")
    await browser.until("document.querySelector('#presence').textContent === 'The responder is stopped.'")
    broker = (await browser.run("return fetch('facts.json').then((it) => it.json())"))["broker"]
    # Somebody who answers with Correlation Data of their own.
    async with reqtt.Client(broker) as stranger, stranger.subscribe("cmnd/#") as commands:
        await browser.click("#switch")
        request = await anext(commands)
        assert request.response_topic == await browser.text("#response-topic")
        assert (request.correlation_data or b"").hex() == await browser.text("#sent")
        await stranger.publish(request.response_topic, "ON", correlation_data=b"x" * 16)
        await browser.until("document.querySelector('#dropped').textContent.endsWith(': 1.')")
        assert (await rows(browser), await browser.text("#response")) == ([], "-")
        await browser.until("document.querySelector('#outcome').textContent === 'no answer within 3 s'")
    assert [row[2] for row in await rows(browser)] == ["timeout"]


async def test_it_works_by_keyboard(browser: Browser, page: str) -> None:
    tab, enter, space = "\ue004", "\ue007", " "
    await browser.press(tab, space)
    await browser.until(ON)
    await browser.press(enter)
    await browser.until(OFF)
    await browser.press(tab, enter)
    assert await browser.run("return document.activeElement.id") == "room"
    await browser.until(ON)


async def test_it_fits_a_phone_and_a_desktop_light_and_dark(
    browser: Browser, page: str, tmp_path: Path
) -> None:
    await browser.click("#switch")
    await browser.until("document.querySelector('#history .good')")
    papers = set()
    for width, dark in ((360, False), (360, True), (1100, False), (1100, True)):
        folder = Path(os.environ.get("REQTT_SCREENSHOTS") or tmp_path)
        shot = await browser.screenshot(width=width, dark=dark)
        (folder / f"{width}-{'dark' if dark else 'light'}.png").write_bytes(shot)
        assert await browser.run("return document.documentElement.scrollWidth") <= width
        papers.add(await browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


async def test_ctrl_c_ends_it_cleanly_and_the_page_says_so(browser: Browser) -> None:
    async with serving() as (demo, address):
        await browser.open(address)
        await browser.until(READY)
        await browser.click("#switch")
        await demo.line("cmnd/light-in-bedroom/power ON: 200")
        await browser.until(ON)
        assert await ended(demo, signal.SIGINT) == (130, "")
        await browser.until("document.querySelector('#connection').textContent === 'no connection'")
        # The port is free again.
        async with serving("--port", address.split(":")[2].strip("/")) as (_, again):
            assert again == address


async def test_only_the_page_itself_may_press_its_buttons() -> None:
    async with serving() as (_, address):
        host = address.split("/")[2]
        for headers, status in (
            ({}, 403),
            ({"Origin": "http://stranger.example"}, 403),
            ({"Origin": "http://stranger.example", "Host": "stranger.example"}, 403),
            ({"Origin": f"http://{host}"}, 204),
        ):
            assert _status(f"{address}lamp/stop", headers, "POST") == status
        assert _status(address, {}, "GET") == 200
        assert _status(address, {"Host": "stranger.example"}, "GET") == 403
        assert _status(f"{address}../demo.py", {}, "GET") == 404


def _status(url: str, headers: dict[str, str], method: str) -> int:
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


async def test_a_browser_is_opened_only_where_asked_for() -> None:
    browser = {"BROWSER": "echo opened %s"}
    async with running("demo", "--web", "--open", env=browser) as demo:
        address = (await demo.line("a lamp and a switch on ")).split()[6]
        await demo.line(f"opened {address}")
    async with running("demo", "--web", env=browser) as demo:
        await demo.line("a lamp and a switch on ")
        assert await ended(demo, signal.SIGTERM) == (0, "")


async def test_options_that_do_not_fit() -> None:
    assert "--web" in (await run("demo", "--web", "--url", "mqtt://localhost")).complaint()
    assert "--web" in (await run("demo", "--port", "0")).complaint()
    async with serving() as (_, address):
        port = address.split(":")[2].strip("/")
        done = await run("demo", "--web", "--port", port)
        assert (done.code, f"port {port} is taken" in done.complaint()) == (2, True)
