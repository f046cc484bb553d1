"""How mkdocs.yml makes a site of docs/: README.md is its first page, and a link to a file that no page shows (a module,
a test) is the name of that file, for the site has no copy of it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)((?:#[^)\s]*)?)\)")
#: files of the first page's links that are pages under another name
PAGES = {"README.md": "index.md", **{f"docs/{path.name}": path.name for path in Path(__file__).parent.iterdir()}}


def on_files(files: Any, *, config: Any) -> Any:
    """The site's files, with README.md as the first page."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """A page's text with links as the site has them."""
    folder = "" if page.file.src_uri == "index.md" else "docs"

    def link(found: re.Match[str]) -> str:
        picture, text, path, anchor = found.groups()
        if not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        whole = posixpath.normpath(posixpath.join(folder, path))
        if whole in PAGES:
            return f"{picture}[{text}]({PAGES[whole]}{anchor})"
        return text if text.strip("`") == whole else f"{text} (`{whole}`)"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)
