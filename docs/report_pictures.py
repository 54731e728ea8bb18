"""Draw the report's first screen, wide and on a phone: python docs/report_pictures.py PROFILE CHROMIUM."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from subopt.app import main as subopt

PICTURES = (("report.png", 1440, 1400), ("report-phone.png", 390, 1300))


def main() -> None:
    """Write docs/report.png and docs/report-phone.png."""
    profile, chromium = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder, "report.html")
        subopt(["report", profile, "-o", str(page_file)])
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, height in PICTURES:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(page_file.as_uri())
            page.wait_for_function(
                "() => [...document.querySelectorAll('.chart')].every("
                "one => one.dataset.drawn || one.getBoundingClientRect().top > innerHeight - 60)"
            )
            page.screenshot(path=Path(__file__).with_name(name))
        browser.close()


if __name__ == "__main__":
    main()
