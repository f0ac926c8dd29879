"""The site's pages: those of the whole repository, at their places in it, so that links between them stay true.

A hook of MkDocs, which by itself takes the folder docs/ alone.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.config.defaults import MkDocsConfig  # type: ignore[import-not-found]
from mkdocs.structure.files import File, Files  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "tasks", "results")
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages, what they link to, and what the theme brings."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    names = {path.relative_to(ROOT).as_posix() for path in paths}
    for name in list(names):
        for target in LINK.findall((ROOT / name).read_text(encoding="utf-8")):
            names |= {normpath(PurePosixPath(name).parent / target)}
    found = [name for name in sorted(names) if (ROOT / name).is_file()]
    ours = [File.generated(config, name, abs_src_path=str(ROOT / name)) for name in found]
    return Files([*theme, *ours])
