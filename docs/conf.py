"""Sphinx configuration of the documentation site, which `make docs` builds.

The pages are plain Markdown and can also be read in the repository. The site's navigation is made from `index.md`: each
heading becomes a group, each link a page.
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
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}
default_role = "py:obj"  # what `name` means in a docstring


def _navigation(_: Any, page: str, source: list[str]) -> None:
    """Append the hidden tables of contents that Sphinx requires to the index, made from the index's own links."""
    if page != "index":
        return
    for part in source[0].split("\n## ")[1:]:
        links = re.findall(r"^- \[(.+?)\]\((.+?)\.(?:md|rst)\)", part, re.MULTILINE)
        pages = [f"{text} <{target}>" for text, target in links]
        lines = ["```{toctree}", ":hidden:", f":caption: {part.splitlines()[0]}", "", *pages, "```"]
        source[0] += "\n" + "\n".join(lines) + "\n"


def _images_by_theme(_: Any, page: str, source: list[str]) -> None:
    """Replace each ``<picture>`` by two images, of which the theme shows the one for light or for dark mode.

    GitHub follows the media query of a ``<picture>``; the site has a switch of its own and copies only images that
    Sphinx knows.
    """
    source[0] = re.sub(
        r'<picture>\s*<source [^>]*srcset="(.+?)">\s*<img alt="(.+?)" src="(.+?)">\s*</picture>',
        lambda found: "\n".join(
            f"```{{image}} {path}\n:alt: {found[2]}\n:class: only-{mode}\n```"
            for mode, path in (("light", found[3]), ("dark", found[1]))
        ),
        source[0],
    )


def _code_of_modules(_: Any, what: str, name: str, module: Any, options: Any, lines: list[str]) -> None:
    """Mark indented blocks in a module's docstring as code, as the command line's help shows them."""
    if what == "module":
        text = re.sub(r"(?m)^(?=\S.*\n\n    )(.*)$", r"\1\n\n::", "\n".join(lines))
        lines[:] = text.split("\n")


def setup(app: Any) -> None:
    """Register the functions above; Sphinx calls this."""
    app.connect("source-read", _navigation)
    app.connect("source-read", _images_by_theme)
    app.connect("autodoc-process-docstring", _code_of_modules)
