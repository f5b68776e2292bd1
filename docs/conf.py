"""How Sphinx makes the site of these pages: `make docs`.

The pages are plain Markdown, readable as they are. The index is the site's navigation: each heading of it a group, each
link a page.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = "Pose teacher cache"
author = "The pose teacher cache authors"
html_title = project
html_theme = "furo"
html_copy_source = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}
default_role = "py:obj"  # `name` in a docstring


def _navigation(_: Any, page: str, source: list[str]) -> None:
    """Append the hidden list of pages that Sphinx asks for, made of the index's own links."""
    if page != "index":
        return
    for part in source[0].split("\n## ")[1:]:
        links = re.findall(r"^- \[(.+?)\]\((.+?)\.(?:md|rst)\)", part, re.MULTILINE)
        pages = [f"{text} <{target}>" for text, target in links]
        lines = ["```{toctree}", ":hidden:", f":caption: {part.splitlines()[0]}", "", *pages, "```"]
        source[0] += "\n" + "\n".join(lines) + "\n"


def _code_of_modules(_: Any, what: str, name: str, module: Any, options: Any, lines: list[str]) -> None:
    """Show what a module's docstring indents as code, as the command line's help does."""
    if what == "module":
        text = re.sub(r"(?m)^(?=\S.*\n\n    )(.*)$", r"\1\n\n::", "\n".join(lines))
        lines[:] = text.split("\n")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _navigation)
    app.connect("autodoc-process-docstring", _code_of_modules)
