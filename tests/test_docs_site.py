"""The site of the documentation builds without a warning, is complete, and leads nowhere wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import reqtt
from test_docstrings import MODULES

ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    command += ["-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder / "html")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_there(pages: dict[Path, Page], site: Path) -> None:
    built = {path.relative_to(site).with_suffix("") for path in pages}
    written = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert {path.relative_to(ROOT).with_suffix("") for path in written} | {Path("index")} <= built


def test_every_public_name_is_in_the_reference(pages: dict[Path, Page]) -> None:
    anchors = set().union(*(page.anchors for page in pages.values()))
    names = {f"module-{module.__name__}" for module in MODULES if module is not reqtt}
    for module in MODULES:
        names |= {
            f"{module.__name__}.{name}"
            for name in module.__all__
            if not inspect.ismodule(getattr(module, name))
        }
    assert {"reqtt.Requester.request", "reqtt.Client.publish", "reqtt.Response.json"} <= anchors
    assert sorted(names - anchors) == []


def test_every_link_inside_leads_somewhere(pages: dict[Path, Page], site: Path) -> None:
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert wrong == []


def test_plots_and_pictures_are_in_the_site(pages: dict[Path, Page], site: Path) -> None:
    for name, pictures in {
        "docs/performance.html": ("throughput.svg", "latency.svg", "cpu.svg"),
        "docs/how-a-request-travels.html": ("request.svg",),
    }.items():
        shown = {Path(link).name for link in pages[site / name].links}
        assert set(pictures) <= shown
