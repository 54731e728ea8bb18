"""The documentation builds without a warning, says what the code says, and needs nobody else's server."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from subopt.app import app
from subopt.errors import SuboptError
from subopt.optimizers import METHODS
from subopt.recipes.recipe.load import parse_recipe
from subopt.recipes.schema import Recipe

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))
import method_pages  # noqa: E402

sys.path.pop(0)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; strict: a warning, such as of a link or an anchor that leads nowhere, is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def text_of(page):
    """What a reader sees of a page, without marks."""
    body = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_nothing_is_loaded_from_elsewhere(site):
    loaded = r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*\bhref="(?:https?:)?//'
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(METHODS)
    for page in pages:
        assert not re.search(loaded, page.read_text(encoding="utf-8")), page.name
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", text), sheet.name


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_page_says_what_the_registry_says(site, name):
    method, page = METHODS[name], text_of(site / "methods" / f"{name}.html")
    assert method.paper in page
    assert method.section in page
    assert method.state_formula in page
    for name, option in method.settable.items():
        assert " ".join(option.meaning.split()) in page, name


def test_a_commands_page_has_its_options(site):
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        page = text_of(site / "commands" / f"{name}.html")
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[-1] in page, (name, parameter.opts)
    assert len(group.commands) > 8


def test_every_command_has_an_example(site):
    for name in typer.main.get_command(app).commands:
        assert f"$ subopt {name}" in text_of(site / "commands" / f"{name}.html")


def test_the_exit_statuses_are_those_of_the_errors(site):
    def statuses(error):
        return {error.exit_status}.union(*map(statuses, error.__subclasses__()))

    page = text_of(site / "commands" / "index.html")
    listed = set(map(int, re.findall(r"(?<= )\d+(?= [a-z])", page.partition("Exit statuses")[2])))
    assert statuses(SuboptError) | {0, 1, 130} <= listed


def test_the_recipe_page_has_every_key(site):
    page = text_of(site / "recipe-file.html")

    def check(section, dotted):
        for key, field in section.model_fields.items():
            assert f" {key} " in page, f"{dotted}{key}"
            inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
            for kind in inner:
                if isinstance(kind, type) and hasattr(kind, "model_fields"):
                    check(kind, f"{dotted}{key}.")

    check(Recipe, "")


def test_an_included_section_is_there(site):
    page = text_of(site / "adding-a-method.html")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sentence = "Write what is new once, in a file of its own: its options, what it stores, its step"
    assert sentence in contributing
    assert sentence in page
    assert "How to add a measurement" in page


def snippets(name, language):
    """The code blocks of a method's page, as its Markdown has them."""
    return re.findall(
        rf"```{language}\n(.*?)\n```", method_pages.pages()[f"methods/{name}.md"], re.DOTALL
    )


@pytest.mark.parametrize("name", METHODS)
def test_what_a_methods_page_shows_is_right(name):
    (lines,) = snippets(name, "yaml")
    recipe = parse_recipe(f"model: {{target: m.py}}\nschedule: {{steps: 2}}\n{lines}\n")
    assert recipe.optimizer.method == name
    (code,) = snippets(name, "python")
    names = {"model": torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))}
    exec(compile(code, name, "exec"), names)
    assert names["optimizer"].param_groups[0]["method"] == name
    resolved = METHODS[name].resolve(dict(recipe.optimizer.options))
    assert {key: names["optimizer"].param_groups[0][key] for key in resolved} == resolved


def test_the_bytes_on_a_methods_page_are_the_registrys(site):
    row = "1024 x 4096 32 MiB 32 MiB 1.00"  # AdamW: two moments of 4 bytes
    assert row in text_of(site / "methods" / "adamw.html")


@pytest.mark.browser
def test_the_site_works_from_the_disk_and_on_a_phone(site, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    for name in ("guide", "accuracy", "commands/profile", "methods/soap"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto((site / "methods" / "soap.html").as_uri())
    page.locator("input[name=query]").press_sequentially("frequent directions")
    page.wait_for_selector(".md-search-result__item", state="attached")
    assert "sketchy" in page.inner_text(".md-search-result")
    assert not [url for url in requested if url.startswith("http")]
    page.close()
