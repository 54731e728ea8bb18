"""What every test relies on: one torch thread, no hypothesis deadline, a history of its own, GPU and browser marks."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

# One thread: results do not depend on the machine's cores, and parallel workers do not fight over them.
torch.set_num_threads(1)

# No deadline, since a test must not fail on a time; the same examples on every CI run.
hypothesis.settings.register_profile(
    "subopt", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("subopt")

# Fixtures of modules and sessions come before a test's own history and have none.
os.environ["SUBOPT_STATE"] = "off"
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_numbers() -> None:
    """Draw the same numbers whatever ran before in this process."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_history(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the runs of a test out of the user's history, and those of one test out of another's."""
    folder = tmp_path_factory.getbasetemp() / "histories" / str(next(_numbers))
    monkeypatch.setenv("SUBOPT_STATE", str(folder))


def pytest_collection_finish() -> None:
    """Leave all that was imported and collected out of later garbage collections, which would walk it every time."""
    _freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Leave out, too, what tests import: transformers alone makes each collection take four times as long."""
    yield
    if len(sys.modules) > _frozen["modules"] + 50:
        _freeze()


_frozen = {"modules": 0}


def _freeze() -> None:
    gc.collect()
    gc.freeze()
    _frozen["modules"] = len(sys.modules)


# Where whole trainings, races, profiles and simulations are, and PyTorch's harness: most of the time of all tests.
_SLOW = (
    "optimizers/bases/test_completion.py",
    "optimizers/low_rank/",
    "optimizers/preconditioners/test_shared_basis.py",
    "optimizers/state/test_low_bit.py",
    "optimizers/torch_harness/",
    "profilers/costs/test_formula.py",
    "profilers/memory/",
    "profilers/target/test_hf_target.py",
    "profilers/test_known_answers.py",
    "profilers/test_other_models.py",
    "profilers/test_profile.py",
    "recipes/advice/test_advisor.py",
    "recipes/data/test_profile.py",
    "recipes/data/test_training.py",
    "recipes/plan/test_peaks.py",
    "recipes/race/",
    "recipes/recipe/test_bundled.py",
    "recipes/run_folder/",
    "recipes/scripts/",
    "recipes/test_fuzz.py",
    "recipes/test_hostile",
    "recipes/tracking/",
    "recipes/training/",
    "test_examples.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and skip `gpu` where torch sees no CUDA device and `browser` where there is no Chromium."""
    reasons = {"gpu": _why_no_gpu(), "browser": _why_no_browser()}
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(_SLOW):
            item.add_marker(pytest.mark.slow)
        for mark, reason in reasons.items():
            if reason is not None and mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def _why_no_gpu() -> str | None:
    with warnings.catch_warnings():
        # A CUDA build of torch on a machine without a driver warns when asked.
        warnings.simplefilter("ignore")
        has_gpu = torch.cuda.is_available()
    return None if has_gpu else "needs a CUDA device, and torch sees none"


def _why_no_browser() -> str | None:
    if _chromium() is None:
        return "needs Chromium: set SUBOPT_CHROMIUM, or install chromium or google-chrome"
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright: pip install playwright"
    return None


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = filter(None, map(shutil.which, names))
    return os.environ.get("SUBOPT_CHROMIUM") or next(found, None)


@pytest.fixture(scope="session")
def chromium_path() -> str | None:
    """The browser that tests marked `browser` start."""
    return _chromium()


# Root needs --no-sandbox; the others keep Chromium from talking to the network by itself.
_CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def browser(chromium_path: str) -> Iterator[Any]:
    """Chromium without a window, one for all tests of a process: playwright starts only once in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=chromium_path, args=list(_CHROMIUM_FLAGS)
        )
        yield chromium
        chromium.close()
