"""The README says what is true: its method table is the registry's, its files exist, its command lines parse."""

import re
import runpy
from pathlib import Path

from subopt.optimizers import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_method_table_is_the_registrys():
    written = runpy.run_path(str(ROOT / "docs" / "method_table.py"))
    assert written["with_table"](README) == README, "run: python docs/method_table.py"
    listed = re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    assert listed == list(METHODS)


def test_every_linked_file_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test"} <= named
    assert [target for target in named if f"\n{target}:" not in makefile] == []
