"""The README says what is true: its method table is the registry's, its files exist, its command lines parse."""

import re
from pathlib import Path

import pytest

from subopt.optimizers import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(method):
    """One line of the README's table."""
    authors = method.paper.split(",")[0]
    where = f"{authors}, {method.section}"
    return f"| `{method.name}` | {method.summary} | {method.state_formula} | {where} |"


@pytest.mark.parametrize("name", METHODS)
def test_the_method_table_is_the_registrys(name):
    assert row(METHODS[name]) in README.splitlines()


def test_the_method_table_has_no_other_rows():
    listed = re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    assert listed == list(METHODS)


def test_every_linked_file_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test"} <= named
    assert [target for target in named if f"\n{target}:" not in makefile] == []
