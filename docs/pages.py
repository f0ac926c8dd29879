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


def on_config(config: MkDocsConfig) -> None:
    """Every task's page, below that of the benchmark."""
    (benchmark,) = (entry["Benchmark"] for entry in config.nav if "Benchmark" in entry)
    benchmark += sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob("tasks/*/README.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages, what they link to, and what the theme brings."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
    names = {page.relative_to(ROOT).as_posix() for page in pages} | {*config.extra_css}
    for page in pages:
        folder = PurePosixPath(page.relative_to(ROOT)).parent
        names |= {normpath(folder / target) for target in LINK.findall(page.read_text(encoding="utf-8"))}
    found = [name for name in sorted(names) if (ROOT / name).is_file()]
    ours = [File.generated(config, name, abs_src_path=str(ROOT / name)) for name in found]
    return Files([*theme, *ours])
