"""The page of `reqtt trace --html`: one file, which loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reqtt.cli._numbers import percentiles
from reqtt.cli._output import milliseconds, preview
from reqtt.cli._pairing import Exchange
from reqtt.cli._plot import over_time
from reqtt.cli._svg import STYLE, Drawing, clean

__all__ = ["asker", "outcome_of", "page"]

# Exchanges in the diagram, the latest: more can not be read.
_DRAWN: Final = 100
_ROW: Final = 26
_COLUMN: Final = 190
_GUTTER: Final = 90


def asker(response_topic: str) -> str:
    """Who asked, as far as the response topic tells."""
    match response_topic.split("/"):
        case ["clients", client_id, "responses", *_]:
            return client_id
    return response_topic


def outcome_of(exchange: Exchange) -> str:
    """How it came out: a class of the style."""
    if not exchange.answers:
        return "unanswered" if exchange.expired else "open"
    if exchange.answers[0].at > exchange.deadline:
        return "late"
    return "error" if exchange.answers[0].status >= 400 else "answered"


def page(exchanges: Sequence[Exchange], topic_filter: str, when: str) -> str:
    """All of it."""
    drawn = exchanges[-_DRAWN:]
    left_out = len(exchanges) - len(drawn)
    note = f"<p>The latest {len(drawn)}; {left_out} earlier ones are left out.</p>" if left_out else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>reqtt trace {clean(topic_filter)}</title>
<style>{STYLE}
body {{ margin: 1.5rem; font: 15px/1.45 system-ui, sans-serif; background: var(--paper); color: var(--ink); }}
h1 {{ font-size: 1.3rem; }} h2 {{ font-size: 1.05rem; margin-top: 2rem; }}
.wide {{ overflow-x: auto; }} code {{ font-family: ui-monospace, monospace; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .8rem .2rem 0; text-align: left;
  border-bottom: 1px solid var(--line); vertical-align: top; font-size: .9rem; }}
.answered {{ color: var(--good); }}
.error, .unanswered {{ color: var(--bad); }} .late {{ color: var(--late); }}
</style>
</head>
<body>
<h1>Requests on <code>{clean(topic_filter)}</code></h1>
<p>{clean(when)}. {clean(summary(exchanges))}</p>
<h2>Sequence</h2>
{note}
<div class="wide">{sequence(drawn).embedded()}</div>
<h2>Latency</h2>
<div class="wide">{_latency(exchanges).embedded()}</div>
<h2>Exchanges</h2>
<div class="wide"><table>
<thead><tr><th>s</th><th>who asked</th><th>topic</th><th>request</th><th>outcome</th><th>latency</th><th>who
answered</th><th>response</th></tr></thead>
<tbody>
{_rows(drawn)}
</tbody></table></div>
</body>
</html>
"""


def summary(exchanges: Sequence[Exchange]) -> str:
    """In one line."""
    outcomes = [outcome_of(exchange) for exchange in exchanges]
    parts = [
        f"{outcomes.count(kind)} {kind}"
        for kind in ("answered", "error", "late", "unanswered", "open")
        if kind in outcomes
    ]
    taken = [exchange.latency * 1000 for exchange in exchanges if exchange.latency is not None]
    text = f"{len(exchanges)} requests" + (f": {', '.join(parts)}" if parts else "")
    if taken:
        named = percentiles(taken)
        text += f"; p50 {named['p50']:.2f} ms, p99 {named['p99']:.2f} ms"
    return text


def sequence(exchanges: Sequence[Exchange]) -> Drawing:
    """Who asked on the left, what was asked on the right, time downwards: a row for each message."""
    askers = list(dict.fromkeys(asker(exchange.response_topic) for exchange in exchanges))
    topics = list(dict.fromkeys(exchange.topic for exchange in exchanges))
    columns = {("asker", name): _GUTTER + _COLUMN * (number + 0.5) for number, name in enumerate(askers)}
    for number, name in enumerate(topics, len(askers)):
        columns["topic", name] = _GUTTER + _COLUMN * (number + 0.5)
    events = _events(exchanges)
    height = 60 + _ROW * (len(events) + 1)
    width = _GUTTER + _COLUMN * max(1, len(columns))
    drawing = Drawing(width, height, "sequence diagram")
    for (_, name), x in columns.items():
        drawing.line(x, 40, x, height - 10, "life")
        drawing.text(x, 28, name if len(name) <= 28 else f"...{name[-25:]}", "", "middle")
    start = events[0][0] if events else 0.0
    for number, (at, exchange, kind, label) in enumerate(events, 1):
        y = 50 + _ROW * number
        left, right = columns["asker", asker(exchange.response_topic)], columns["topic", exchange.topic]
        drawing.text(4, y + 4, f"{at - start:.3f} s", "dim")
        if kind == "unanswered":
            drawing.text(left, y + 4, "\u2715 no answer", kind, "middle")
            continue
        there = kind == "ask"
        drawing.arrow(left if there else right, y, right if there else left, kind)
        drawing.text((left + right) / 2, y - 4, label, kind, "middle")
    return drawing


def _events(exchanges: Sequence[Exchange]) -> list[tuple[float, Exchange, str, str]]:
    events = []
    for exchange in exchanges:
        events.append((exchange.asked, exchange, "ask", preview(exchange.payload, 26)))
        for answer in exchange.answers:
            late = answer.at > exchange.deadline
            kind = "late" if late else "error" if answer.status >= 400 else "answered"
            label = f"{preview(answer.payload, 16)} {milliseconds(answer.at - exchange.asked)}"
            events.append(
                (answer.at, exchange, kind, label if answer.status < 400 else f"{answer.status} {label}")
            )
        if exchange.expired and outcome_of(exchange) in ("unanswered", "late"):
            events.append((exchange.deadline, exchange, "unanswered", ""))
    return sorted(events, key=lambda event: event[0])


def _latency(exchanges: Sequence[Exchange]) -> Drawing:
    start = exchanges[0].asked if exchanges else 0.0
    return over_time(
        [
            (
                exchange.asked - start,
                exchange.latency * 1000,
                outcome_of(exchange),
                f"{exchange.topic} {milliseconds(exchange.latency)}",
            )
            for exchange in exchanges
            if exchange.latency is not None
        ],
        "latency over time",
    )


def _rows(exchanges: Sequence[Exchange]) -> str:
    start = exchanges[0].asked if exchanges else 0.0
    rows = []
    for exchange in exchanges:
        first = exchange.answers[0] if exchange.answers else None
        kind = outcome_of(exchange)
        cells = [
            f"{exchange.asked - start:.3f}",
            asker(exchange.response_topic),
            exchange.topic,
            preview(exchange.payload),
            f"{kind} {first.status}" if first is not None and first.status >= 400 else kind,
            "" if exchange.latency is None else milliseconds(exchange.latency),
            "" if first is None else first.who or "",
            "" if first is None else preview(first.payload),
        ]
        data = "".join(f"<td>{clean(cell)}</td>" for cell in cells)
        rows.append(f'<tr class="{kind}">{data}</tr>')
    return "\n".join(rows)
