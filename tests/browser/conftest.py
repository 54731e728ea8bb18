"""A page of the browser that notes everything a reader should never meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from subopt.profilers.record.profile import Profile
from subopt.recipes.advice.advisor import recommend
from subopt.report import render

HEIGHTS = {390: 844, 1920: 1080}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Profile], Path]:
    """Writes the report of a profile, each one once."""
    folder = tmp_path_factory.mktemp("reports")
    files: dict[int, Path] = {}

    def write(profile: Profile) -> Path:
        if id(profile) not in files:
            path = folder / f"{len(files)}.html"
            page = render(profile, recommend(profile, budget_bytes=24 * 2**30))
            path.write_text(page, encoding="utf-8")
            files[id(profile)] = path
        return files[id(profile)]

    return write


class Opened:
    """A report in the browser.

    Attributes:
        page: The playwright page.
        problems: Errors on the console, and addresses that the page asked for beside its own.
    """

    def __init__(self, page: Any, file: Path) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._on_request)
        self._address = file.as_uri()
        page.goto(self._address, wait_until="domcontentloaded")

    def _on_console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"console: {message.text}")

    def _on_request(self, request: Any) -> None:
        if request.url.split("#")[0] != self._address:
            self.problems.append(f"request: {request.url[:200]}")

    def draw(self, charts: str = ".chart") -> None:
        """Scroll to every chart until it is drawn."""
        for chart in self.page.locator(charts).all():
            chart.scroll_into_view_if_needed()
            self.page.wait_for_function("one => one.dataset.drawn", arg=chart.element_handle())

    def drawn(self) -> int:
        """Return how many charts are drawn."""
        return int(self.page.locator(".chart[data-drawn]").count())


@pytest.fixture(scope="module")
def opened(browser: Any, written: Callable[[Profile], Path]) -> Iterator[Callable[..., Opened]]:
    """Opens the report of a profile at a width, as a phone where it is narrow."""
    contexts = []

    def open_at(profile: Profile, width: int = 1920) -> Opened:
        is_phone = width < 500
        context = browser.new_context(
            viewport={"width": width, "height": HEIGHTS[width]},
            color_scheme="light",
            is_mobile=is_phone,
            has_touch=is_phone,
        )
        context.set_default_timeout(60_000)
        contexts.append(context)
        return Opened(context.new_page(), written(profile))

    yield open_at
    for context in contexts:
        context.close()
