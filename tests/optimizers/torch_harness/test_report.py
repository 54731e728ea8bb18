"""The page about these tests names the methods and properties that there are, and its counts add up."""

import re
import runpy
from pathlib import Path

from .catalogue import COUNTERPARTS, DRIVEN, FILES, MODEL_FILE, OVER_MODELS, WITHOUT, properties

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "torch-optimizer-tests.md").read_text(encoding="utf-8")
AGAIN = "run: python docs/torch_harness_report.py"


def rows(test):
    """The page's lines about one of our tests: passed and skipped."""
    return re.findall(rf"^\|.*\| `{test}` \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)


def test_every_property_has_a_line_that_counts_every_method():
    total = {"passed": 0, "skipped": 0}
    for files, methods in ((FILES, DRIVEN), ([MODEL_FILE], OVER_MODELS)):
        for file in files:
            assert properties(file)
            for test, says in properties(file).items():
                assert says, test
                found = rows(test)
                assert len(found) == 1, f"{test}: {AGAIN}"
                passed, skipped = map(int, found[0])
                assert passed + skipped == len(methods), f"{test}: {AGAIN}"
                total["passed"] += passed
                total["skipped"] += skipped
    assert f"**{total['passed']} passed, {total['skipped']} skipped, " in PAGE, AGAIN


def test_the_page_names_these_properties_and_methods_and_no_others():
    known = [test for file in (*FILES, MODEL_FILE) for test in properties(file)]
    assert len(set(known)) == len(known)
    listed = re.findall(r"^\|.*\| `(test_\w+)` \| \d+ \| \d+ \|$", PAGE, re.MULTILINE)
    assert listed == known, AGAIN
    for methods in (DRIVEN, OVER_MODELS):
        assert ", ".join(f"`{name}`" for name in methods) in PAGE, AGAIN


def test_every_counterpart_is_a_property_of_ours():
    known = {test for file in FILES for test in properties(file)}
    assert {name for names in COUNTERPARTS.values() for name in names} <= known
    assert not COUNTERPARTS.keys() & WITHOUT.keys()
    written = runpy.run_path(str(DOCS / "torch_harness_report.py"))
    assert written["pytorchs"]() in PAGE, AGAIN


def test_tests_are_told_apart_by_property_and_method():
    split = runpy.run_path(str(DOCS / "torch_harness_report.py"))["split"]
    for name in ("adafacdiag", "adafacdiag++", "adafacdiag++-nomom"):
        identifier = name.replace("-", "_").replace("+", "p")
        assert split(f"test_tensor_lr_{identifier}_cpu_float64") == ("test_tensor_lr", name)
    assert split("test_closures[dlrt]") == ("test_closures", "dlrt")
    assert split("test_every_counterpart_is_a_property_of_ours") is None
