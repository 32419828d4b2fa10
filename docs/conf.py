"""How the pages of this folder become a site: ``sphinx-build --fail-on-warning docs site``, without any network.

The pages are CommonMark, and read the same in a file viewer. What they link to outside of this folder comes along
as a file to be fetched; a folder has nothing to show in a site, so a link to one stays plain text there.
"""

from __future__ import annotations

import os
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).parent

project = "vlitqc"
author = "The vlitqc developers"
release = version = installed("vlitqc")

extensions = ["myst_parser"]
nitpicky = True
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_title = f"vlitqc {release}"
html_use_index = False
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
pygments_style = "tango"
pygments_dark_style = "monokai"


class OutsideOfTheSite(SphinxTransform):
    """Links to Markdown and to folders of the repository: MyST takes either for a page, and finds none."""

    default_priority = 5

    def apply(self, **kwargs: Any) -> None:
        """Replace each such link: Markdown is fetched as a file, a folder is named without a link."""
        for link in list(self.document.findall(pending_xref)):
            target = link["reftarget"]
            if link["refdomain"] == "doc" and target not in self.env.found_docs:
                # Of a file outside of this folder the "page" is its whole path without the suffix.
                path = os.path.relpath(f"{target}.md", (DOCS / self.env.docname).parent)
                fetched = download_reference("", "", *link.children, reftarget=path, refdoc=self.env.docname)
                link.replace_self(fetched)
            elif link["refdomain"] is None and (DOCS / self.env.docname).parent.joinpath(target).is_dir():
                link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    """Sphinx calls this by its name."""
    app.add_transform(OutsideOfTheSite)
