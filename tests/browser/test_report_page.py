"""The report in a real browser: every chart drawn and readable, tables that work, and nothing asked of the network."""

from __future__ import annotations

import time

import pytest

from ..cli.full_profile import full_profile

pytestmark = pytest.mark.browser

LAYERS = 21
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"

# Of each chart: how many marks it has, and the boxes of its plot area, its legend and itself.
LOOK = """
charts => charts.map(chart => {
  const box = selector => {
    const found = chart.querySelector(selector);
    if (!found) return null;
    const { left, right, top, bottom, width, height } = found.getBoundingClientRect();
    return { left, right, top, bottom, width, height };
  };
  const marks = ".scatterlayer path, .barlayer path, .heatmaplayer image";
  const { left, right } = chart.getBoundingClientRect();
  return {
    id: chart.id,
    marks: [...chart.querySelectorAll(marks)].filter(mark => mark.getBoundingClientRect().width > 0).length,
    area: box(".draglayer .nsewdrag"),
    legend: box(".legend"),
    title: box(".xtitle"),
    left, right,
  };
})
"""


@pytest.fixture(scope="module")
def desktop(opened):
    """The report on a wide screen, all of it drawn."""
    report = opened(full_profile(LAYERS))
    report.draw()
    return report


@pytest.fixture(scope="module")
def phone(opened):
    """The report on a phone, all of it drawn."""
    report = opened(full_profile(LAYERS), 390)
    report.draw()
    return report


@pytest.fixture(params=["phone", "desktop"])
def either(request):
    return request.getfixturevalue(request.param)


def test_every_chart_is_drawn_and_has_room(either):
    charts = either.page.locator(".chart").evaluate_all(LOOK)
    assert len(charts) == 22
    assert [chart["id"] for chart in charts if chart["marks"] == 0] == []
    cramped = [c["id"] for c in charts if c["area"]["width"] < 150 or c["area"]["height"] < 180]
    assert cramped == []
    covered = [
        chart["id"]
        for chart in charts
        if chart["legend"] and chart["legend"]["bottom"] > chart["area"]["top"] + 1
    ]
    assert covered == []
    assert either.problems == []


def test_the_page_does_not_scroll_sideways(either):
    width = either.page.viewport_size["width"]
    assert either.page.evaluate("document.documentElement.scrollWidth") == width
    # what is wider than the page scrolls in a box of its own
    wide = either.page.locator("table").evaluate_all(
        "tables => tables.filter(t => t.scrollWidth > innerWidth && !t.closest('.scroll')).length"
    )
    assert wide == 0


def test_the_first_screen_has_the_answer_with_both_charts(either):
    heights = either.page.evaluate(
        "['.verdict', '#bars-gains', '#bars-peak'].map("
        "one => document.querySelector(one).getBoundingClientRect().top + scrollY)"
    )
    assert max(heights[:2]) < either.page.viewport_size["height"]
    assert either.page.locator("#answer .chart").count() == 0  # there without a script
    bars = either.page.locator("#bars-gains .track i, #bars-peak .track i").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().width)"
    )
    assert len(bars) > 10
    assert sum(width > 1 for width in bars) > len(bars) / 2


def test_a_table_that_goes_on_to_the_right_says_so(phone, desktop):
    def hint(report, table):
        box = report.page.locator(f".scroll:has(#table-{table})")
        return box.evaluate(
            "box => [box.scrollWidth > box.clientWidth + 1, !box.previousElementSibling.hidden]"
        )

    assert hint(phone, "methods") == [True, True]
    is_wider, says_so = hint(desktop, "spent")
    assert (is_wider, says_so) == (False, False)
    box = phone.page.locator(".scroll:has(#table-methods)")
    assert "more" in box.get_attribute("class")
    box.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    phone.page.wait_for_function("box => !box.classList.contains('more')", arg=box.element_handle())


def test_what_is_touched_on_a_phone_is_large_enough(phone):
    # what is folded has no size
    heights = phone.page.locator(
        "button:visible, select:visible, input:visible, nav a, summary"
    ).evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert len(heights) > 50
    assert min(heights) >= 40


def column(report, header: int) -> list[float]:
    return report.page.locator("#table-methods tbody tr").evaluate_all(
        "(rows, at) => rows.map(row => Number(row.cells[at].dataset.value))", header
    )


def test_the_method_table_is_sorted_by_mouse_and_keyboard(desktop):
    buttons = desktop.page.locator("#table-methods thead button")
    head = desktop.page.locator("#table-methods thead th").nth(1)
    before = column(desktop, 1)

    buttons.nth(1).click()
    assert column(desktop, 1) == sorted(before) != before
    assert head.get_attribute("aria-sort") == "ascending"

    buttons.nth(1).focus()
    desktop.page.keyboard.press("Enter")
    assert column(desktop, 1) == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"

    buttons.first.click()
    names = desktop.page.locator("#table-methods tbody td:first-child").all_inner_texts()
    assert (names[0], names[-1]) == ("adadiag", "soap-one-sided")
    assert head.get_attribute("aria-sort") == "none"


def test_the_parameters_are_filtered_by_words(desktop):
    rows = desktop.page.locator("#table-parameters tbody tr:visible")
    assert rows.count() == 0  # folded
    desktop.page.locator("details:has(#table-parameters) summary").click()
    everything = rows.count()
    assert everything > LAYERS
    desktop.page.locator("input[data-table=table-parameters]").fill("RMSNorm fallback")
    assert 0 < rows.count() < everything
    assert all("RMSNorm" in text for text in rows.all_inner_texts())
    assert f"{rows.count()} of {everything} rows" in desktop.page.locator("output").inner_text()


def test_picking_a_layer_changes_the_chart(desktop):
    second = [layer for layer in full_profile(LAYERS).layers if layer.subspace][1]
    desktop.page.locator("select[data-chart=chart-life]").select_option(index=2)
    curve = desktop.page.evaluate("document.getElementById('chart-life').data[1].y")
    assert curve == pytest.approx(second.subspace["gradient"].frozen, rel=1e-3)
    assert desktop.problems == []


def test_the_charts_follow_the_colour_scheme(desktop):
    ink = "getComputedStyle(document.querySelector('#chart-energy .xtitle')).fill"
    light = desktop.page.evaluate(ink)
    desktop.page.emulate_media(color_scheme="dark")
    desktop.page.wait_for_function(f"light => {ink} !== light", arg=light)
    assert desktop.page.evaluate(ink) == "rgb(230, 233, 237)"
    desktop.page.emulate_media(color_scheme="light")


@pytest.fixture(scope="module")
def hostile(opened):
    """A report of layers with names that mean harm, and of methods whose time is not known."""
    profile = full_profile(LAYERS)
    layers = [
        layer.model_copy(update={"name": f"{index}.{HOSTILE}"})
        for index, layer in enumerate(profile.layers)
    ]
    methods = [
        cost.model_copy(update={"overhead_ms": None if index % 3 else cost.overhead_ms})
        for index, cost in enumerate(profile.methods)
    ]
    return opened(profile.model_copy(update={"layers": layers, "methods": methods}))


def test_names_of_layers_are_shown_and_never_obeyed(hostile):
    hostile.draw("#chart-ranks, #chart-heat, #chart-life")
    assert hostile.page.title() == "subopt report: examples/llama_bytes.py"
    assert hostile.page.locator("main img, main td b").count() == 0
    ticks = hostile.page.locator("#chart-ranks .xtick text").all_text_contents()
    assert any("</scr" in tick and "bold</b>" in tick for tick in ticks)
    assert hostile.problems == []


def test_unknown_values_are_sorted_last_either_way(hostile):
    buttons = hostile.page.locator("#table-methods thead button")
    at = [text.startswith("time a step") for text in buttons.all_inner_texts()].index(True)
    for _ in range(2):
        buttons.nth(at).click()
        texts = hostile.page.locator(f"#table-methods td:nth-child({at + 1})").all_inner_texts()
        known = sum(text != "-" for text in texts)
        assert 0 < known < len(texts)
        assert set(texts[known:]) == {"-"}


def test_500_layers_are_drawn_as_they_come_into_view(opened, record_property):
    profile = full_profile(500)
    begin_s = time.perf_counter()
    report = opened(profile)
    report.page.locator("#table-methods thead button").nth(1).click()
    record_property("seconds_until_a_click_was_handled", round(time.perf_counter() - begin_s, 2))
    assert column(report, 1) == sorted(column(report, 1))
    assert report.drawn() < 8  # those on the way to the table
    report.page.locator("#chart-heat").scroll_into_view_if_needed()
    report.page.wait_for_selector("#chart-heat[data-drawn]")
    assert report.drawn() < 20
    assert report.problems == []
