"""Drawing with SVG elements: what is written there is escaped, colours come from one style sheet."""

from __future__ import annotations

import re
from html import escape

__all__ = ["STYLE", "Drawing", "clean"]

# Both schemes; a picture of its own carries it too.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #667; --line: #ccd; --paper: #fff; --good: #0a7d4f;
  --bad: #c1272d; --late: #b26b00; --ask: #0060b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --dim: #9aa; --line: #3a3f47; --paper: #16181c;
  --good: #4cc38a; --bad: #ff6b6b; --late: #f0a83c; --ask: #6cb6ff; } }
svg { background: var(--paper); font: 12px ui-sans-serif, system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .dim { fill: var(--dim); } svg .axis, svg .life { stroke: var(--line); }
svg .ask { stroke: var(--ask); fill: var(--ask); } svg .answered { stroke: var(--good); fill: var(--good); }
svg .error, svg .unanswered { stroke: var(--bad); fill: var(--bad); }
svg .late { stroke: var(--late); fill: var(--late); } svg .curve { stroke: var(--ask); fill: none; }
svg text.ask, svg text.answered, svg text.error, svg text.late, svg text.unanswered { stroke: none; }
svg .late, svg .unanswered { stroke-dasharray: 5 3; }
"""

# What XML does not allow, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """For HTML and XML, in text and in attributes."""
    return escape(_NOT_XML.sub("\ufffd", text), quote=True)


class Drawing:
    """An SVG of this size, in pixels; `title` is for those who cannot see it."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        self._title = title
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def arrow(self, x1: float, y: float, x2: float, kind: str) -> None:
        """A horizontal one."""
        back = -6 if x2 > x1 else 6
        self.line(x1, y, x2, y, kind)
        self._parts.append(
            f'<path d="M{x2:.1f} {y:.1f} l{back} -4 v8 z" class="{kind}" style="stroke-dasharray:none"/>'
        )

    def dot(self, x: float, y: float, kind: str, tip: str) -> None:
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{kind}"><title>{clean(tip)}</title></circle>'
        )

    def curve(self, points: list[tuple[float, float]], kind: str = "curve") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" class="{kind}" stroke-width="2"/>')

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{clean(text)}</text>'
        )

    def embedded(self) -> str:
        """For a page that has `STYLE` itself."""
        return self._svg("")

    def alone(self) -> str:
        """For a file of its own."""
        return self._svg(f"<style>{STYLE}</style>\n") + "\n"

    def _svg(self, style: str) -> str:
        body = "\n".join(self._parts)
        title = f"<title>{clean(self._title)}</title>"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {self._size} role="img">'
        return f"{head}\n{title}\n{style}{body}\n</svg>"
