"""What mkdocs runs while it builds: pages from the code, includes, and the repository's files that pages link to.

Nothing generated is committed: the pages cannot be out of date, and a change of an option changes no other file.
"""

from pathlib import Path

import command_pages
import method_pages
import recipe_page
from bundled_table import bundled_table
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from page_sources import BadInclude, Sources

ROOT = Path(__file__).resolve().parents[2]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read what the code has to say, and list its pages in the navigation."""
    config.generated = generated_pages()
    config.nav = [
        {title: _with_pages(entry, config.generated)}
        for item in config.nav
        for title, entry in item.items()
    ]
    return config


def generated_pages() -> dict[str, str]:
    """Return the Markdown of every page that is made from the code, by its place in the site."""
    return command_pages.pages(ROOT) | method_pages.pages() | recipe_page.pages()


def _with_pages(entry: object, generated: dict[str, str]) -> object:
    """Replace `folder/index.md` by itself and the generated pages of that folder."""
    if not isinstance(entry, str) or not entry.endswith("/index.md"):
        return entry
    folder = entry.removesuffix("index.md")
    return [entry, *(name for name in generated if name.startswith(folder) and name != entry)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and what pages link to in the repository."""
    for name, text in config.generated.items():
        files.append(File.generated(config, name, content=text))
    config.sources = Sources(ROOT, Path(config.docs_dir))
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    try:
        for name, content in config.sources.linked_files(texts).items():
            files.append(File.generated(config, name, content=content))
    except BadInclude as error:
        raise PluginError(str(error)) from None
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in includes, and let links that leave the documentation lead to the copies in the site."""
    del files
    text = config.sources.finished(markdown, page.file.src_uri)
    mark = "<!-- generated: bundled -->"
    return text.replace(mark, bundled_table()) if mark in text else text
