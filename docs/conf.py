"""The site of these pages, by Sphinx: `make docs`.

The source folder is the repository, so that the links which work on a forge work in the site as well.
README.md is the start page.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

from sphinx.application import Sphinx

import reqtt

ROOT = Path(__file__).resolve().parent.parent

project = "reqtt"
author = "the authors of reqtt"
copyright = "the authors of reqtt, Apache-2.0"
release = version = reqtt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

html_theme = "furo"
html_title = "reqtt"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

myst_heading_anchors = 3
# Configurations, languages and outputs that Pygments does not know stay as they are.
suppress_warnings = ["misc.highlighting_failure", "myst.xref_ambiguous", "ref.python"]

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "inherited-members": "Protocol,BaseException,object,tuple"}
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

# Stands for a colon while napoleon is at work.
NO_TYPE = "\0"

CONTENTS = """

```{toctree}
:hidden:
:caption: Begin
docs/tutorial
docs/requesters
docs/responders
docs/operations
docs/applications
docs/blocking
```

```{toctree}
:hidden:
:caption: How to
docs/testing
docs/brokers
docs/scaling
docs/authentication
docs/migration
docs/windows
docs/notebooks
docs/command-line
docs/observability
docs/asyncapi
SECURITY
```

```{toctree}
:hidden:
:caption: Reference
docs/reference/index
docs/wire
docs/interoperability
docs/azure
docs/conformance
CHANGELOG
```

```{toctree}
:hidden:
:caption: Explanation
docs/how-a-request-travels
docs/performance
docs/comparison
docs/architecture
CONTRIBUTING
```
"""


def read_source(app: Sphinx, name: str, source: list[str]) -> None:
    """The start page gets the contents. A link to a folder becomes its text: a site shows no folders."""
    page = Path(app.env.doc2path(name))

    def plain(found: re.Match[str]) -> str:
        return found[1] if (page.parent / found[2]).is_dir() else found[0]

    if page.suffix == ".md":
        source[0] = re.sub(r"\[([^]]+)\]\(([^)#:]+)\)", plain, source[0])
    if name == root_doc:
        source[0] += CONTENTS


def read_docstring(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written for `help()`: indented blocks are code, backticks are names or literals."""
    text = "\n".join(lines)
    # Each block begins at the left margin, and takes what is indented below it.
    blocks = re.split(r"\n\s*\n(?=\S|    \S)", text)
    read: list[str] = []
    section = False
    for block in blocks:
        head, _, rest = block.partition("\n")
        if head in ("Example:", "Examples:"):
            read += [".. rubric:: Example", ".. code-block:: python\n\n" + rest]
        elif (block.startswith("    ") and not section) or is_code(block):
            read.append(".. code-block:: python\n\n" + indent(dedent(block), "    "))
        elif head.startswith("|"):
            read.append(table(block.splitlines()))
        else:
            section = bool(re.fullmatch(r"[A-Z]\w+:", head)) or (section and block.startswith("    "))
            read.append(re.sub(r"(?<!`)`([^`]+)`(?!`)(\w?)", quoted, block))
    if kind in ("attribute", "data", "property") and read:
        # Or napoleon takes what is before a colon for the type.
        read[0] = read[0].replace(":", NO_TYPE)
    lines[:] = "\n\n".join([*read, ""]).split("\n")


def after_napoleon(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(NO_TYPE, ":") for line in lines]


def quoted(found: re.Match[str]) -> str:
    name = re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", found[1])
    # What follows without a space, as in `Message`s, needs to be set apart.
    after = f"\\ {found[2]}" if found[2] else ""
    return (f"`{found[1]}`" if name else f"``{found[1]}``") + after


def is_code(block: str) -> bool:
    """The indentation of examples in short native docstrings is lost on the way."""
    try:
        ast.parse(block)
    except SyntaxError:
        return False
    return bool(block.strip())


def table(rows: list[str]) -> str:
    """A Markdown table in reStructuredText."""
    read = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        if set(row) - set("|-: "):
            cells = [re.sub(r"`([^`]+)`(\w?)", quoted, cell.strip()) for cell in row.strip("|").split("|")]
            read += [f"   {'* ' if number == 0 else '  '}- {cell}" for number, cell in enumerate(cells)]
    return "\n".join(read)


def finish(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        shutil.copyfile(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_source)
    # Before napoleon reads the sections.
    app.connect("autodoc-process-docstring", read_docstring, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
    app.connect("build-finished", finish)
