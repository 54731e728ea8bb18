"""Links in the repository's Markdown lead somewhere: files, headings, and hosts that we mean to name."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))
from page_sources import BadInclude, Sources, section, slug  # noqa: E402

sys.path.pop(0)

HOSTS = {"arxiv.org", "github.com"}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What docs/site makes when the site is built; the strict build checks links to these.
GENERATED = re.compile(r"^(commands|methods)/[\w+-]+\.md$|^recipe-file\.md$")


def without_code(text):
    text = re.sub(r"^(```+|~~~+).*?^\1[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page):
    return re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))


def is_generated(target):
    docs = ROOT / "docs"
    return target.is_relative_to(docs) and GENERATED.match(target.relative_to(docs).as_posix())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in links(page):
        if "://" in link:
            assert re.match(r"https://([^/]+)", link)[1] in HOSTS, link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if is_generated(target):
            continue
        assert target.exists(), link
        if anchor:
            found = re.findall(r"^#+ (.*)$", without_code(target.read_text()), re.MULTILINE)
            plain = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {slug(heading) for heading in found + plain}, link


def test_there_are_links_to_check():
    assert sum(len(links(page)) for page in PAGES) > 30


def test_a_page_that_includes_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "other.md").write_text(
        "# Title\n\n## One\n\ntext [x](docs/a.md)\n\n## Two\n\nmore\n"
    )
    sources = Sources(tmp_path, tmp_path / "docs")
    included = sources.finished("<!-- include: ../other.md#one -->", "a.md")
    assert included == "## One\n\ntext [x](a.md)"
    deeper = sources.finished("# A\n\n## B\n\n<!-- include: ../other.md -->\n", "a.md")
    assert "\n### One\n" in deeper
    assert "# Title" not in deeper
    for wrong in ("../other.md#three", "../missing.md"):
        with pytest.raises(BadInclude):
            sources.finished(f"<!-- include: {wrong} -->", "a.md")
    for wrong in ("../../etc/passwd", "../nothing.md"):
        with pytest.raises(BadInclude):
            sources.finished(f"[x]({wrong})", "a.md")


def test_files_of_the_repository_come_along_with_what_they_link_to(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.md").write_text("see [b](b.py)\n")
    (tmp_path / "results" / "b.py").write_text("x = 1\n")
    sources = Sources(tmp_path, tmp_path / "docs")
    page = "[a](../../results/a.md#top) `[no](link.md)` text\n\n```\n[nor](here.md)\n```\n"
    copies = sources.linked_files({"deep/page.md": page})
    assert copies.keys() == {"repository/results/a.md", "repository/results/b.py.md"}
    assert "```" in copies["repository/results/b.py.md"]
    finished = sources.finished(page, "deep/page.md")
    assert finished.startswith("[a](../repository/results/a.md#top)")
    assert "[nor](here.md)" in finished
    assert sources.finished(copies["repository/results/a.md"], "repository/results/a.md") == (
        "see [b](b.py.md)\n"
    )


def test_a_section_ends_before_the_next_of_its_level():
    text = "# A\n\n## B\n\n```\n# no heading\n```\n\n### C\n\n## D\n"
    assert section(text, "b", "test") == "## B\n\n```\n# no heading\n```\n\n### C\n\n"
