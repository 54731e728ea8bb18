"""The report: one page with everything in it, which leaves out what was not measured and trusts no text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from subopt.commands._advice import own_advice
from subopt.errors import UsageError
from subopt.findings.answer import answer_of
from subopt.findings.summary import profile_summary
from subopt.optimizers import METHODS
from subopt.profilers.record.profile import Profile, Record
from subopt.recipes.advice.advisor import recommend
from subopt.recipes.plan.budget import read_budget
from subopt.report import MARK, render
from subopt.report.answer import answer_parts
from subopt.report.parts import Bars

from .full_profile import full_profile

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>%{y}'&amp;\"</b>"
URL_ATTRIBUTES = {"src", "href", "action", "data", "srcset", "poster", "formaction"}
MEGABYTE = 10**6


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, the texts of its scripts, what is left open."""

    VOID = ("meta", "link", "img", "input", "br", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def ids(self, tag: str) -> list[str]:
        return [
            attributes["id"]
            for name, attributes in self.elements
            if name == tag and attributes.get("id")
        ]

    @property
    def figures(self) -> dict[str, dict]:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def full() -> Profile:
    return full_profile()


@pytest.fixture(scope="module")
def page(full) -> Page:
    return Page(render(full, recommend(full, budget_bytes=24 * 2**30)))


def values_in(record, found):
    """Collect what the fields of a record and of all records in it hold."""
    for name in type(record).model_fields:
        value = getattr(record, name)
        found.setdefault((type(record).__name__, name), []).append(value)
        for item in (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, list)
            else [value]
        ):
            for one in item.values() if isinstance(item, dict) else [item]:
                if isinstance(one, Record):
                    values_in(one, found)
    return found


def test_the_made_up_profile_fills_every_field(full):
    found = values_in(full, {})
    empty = [
        field
        for field, values in found.items()
        if all(v is None or v in ([], {}, "") for v in values)
    ]
    assert not empty, empty
    assert {cost.method for cost in full.methods} == set(METHODS)
    assert full_profile(9, 1) == full_profile(9, 1)
    assert Profile.model_validate_json(full.model_dump_json()) == full


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert len(links) == 17
    assert [link for link in links if link.removeprefix("#") not in ids] == []
    labelled = [a["aria-labelledby"] for _, a in page.elements if a.get("aria-labelledby")]
    assert set(labelled) <= set(ids)


def test_the_answer_comes_first_and_tables_of_layers_are_folded(full, page):
    advice = recommend(full, budget_bytes=24 * 2**30)
    answer = answer_of(advice, full, "subopt recommend")
    assert page.ids("section")[:2] == ["answer", "summary"]
    first = page.text[page.text.index("Answer\n") : page.text.index("What it rests on, in short.")]
    assert answer.verdict in first
    assert f"confidence: {answer.confidence}" in first
    for name, text in answer.lines:
        assert f"{name}{text.replace('+-', '±')}" in first
    assert page.ids("figure") == ["bars-gains", "bars-peak"]
    folded = [index for index, (tag, _) in enumerate(page.elements) if tag == "details"]
    tables = [page.elements[index + 2][1]["id"] for index in folded]
    assert tables == ["table-periods-title", "table-parameters-title"]


def test_the_bars_of_the_gains_have_their_errors(full, page):
    advice = recommend(full, budget_bytes=24 * 2**30)
    parts = [part for part in answer_parts(full, advice, "") if isinstance(part, Bars)]
    gains = next(part for part in parts if part.name == "gains")
    rows = {row.method: row for row in advice.rows}
    one = next(bar for bar in gains.bars if bar.whisker)
    expected = rows[one.label].expected
    low, high = one.whisker
    scale = 2 * expected.error / (high - low)
    assert (low - gains.line) * scale == pytest.approx(expected.gain - expected.error)
    assert sum(segment.length for segment in one.segments) * scale == pytest.approx(
        abs(expected.gain)
    )


def test_nothing_is_loaded_from_elsewhere(page):
    loading = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in URL_ATTRIBUTES and not (value or "").startswith("#")
    ]
    assert loading == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert sum("plotly.js v" in script[:300] for script in page.scripts) == 1


def test_every_chart_has_a_figure_and_every_view_fits_its_traces(page):
    figures = page.figures
    drawn = [a["id"] for tag, a in page.elements if tag == "div" and a.get("class") == "chart"]
    assert sorted(drawn) == sorted(figures)
    assert len(drawn) == 22
    pickers = {a["data-chart"] for tag, a in page.elements if tag == "select"}
    assert pickers == {name for name, figure in figures.items() if "views" in figure}
    for figure in figures.values():
        assert figure["data"]
        assert figure["layout"]["height"] > 0
        for view in figure.get("views", []):
            assert len(view) <= len(figure["data"])


def test_the_charts_show_the_profiles_numbers(full, page):
    figures = page.figures
    first = next(layer for layer in full.layers if layer.spectrum)
    kept = [round(share.mean, 4) for share in first.spectrum.energy_at_rank.values()]
    energy = figures["chart-energy"]["views"][0][2]["y"]
    assert [any(abs(one - share) < 1e-3 for one in energy) for share in kept] == [True] * 4
    one_sided = next(
        t for t in figures["chart-diagonality"]["data"] if t["name"].endswith("one side")
    )
    assert one_sided["y"][0] == pytest.approx(first.diagonality.one_sided.ratio, rel=1e-3)
    lowest = min(full.methods, key=lambda cost: cost.state_bytes)
    assert figures["chart-state"]["data"][0]["y"][-1] == lowest.method
    bars = {trace["name"]: trace for trace in figures["chart-memory"]["data"]}
    adamw = bars["optimizer state"]["y"].index("adamw")
    state = full.methods[0].peak.categories[full.methods[0].peak.phase]["state"]
    assert bars["optimizer state"]["x"][adamw] == pytest.approx(state / 2**30, rel=1e-3)
    usable = read_budget(24 * 2**30).usable_bytes / 2**30
    lines = [line["x0"] for line in figures["chart-memory"]["layout"]["shapes"]]
    assert lines == pytest.approx([usable, 24], rel=1e-3)
    life = figures["chart-life"]["views"][0][1]["y"]
    assert life == pytest.approx(first.subspace["gradient"].frozen, rel=1e-3)


def test_the_summary_and_the_tables_hold_what_the_profile_says(full, page):
    for sentence in profile_summary(full):
        assert sentence in page.text
    for layer in full.layers:
        assert layer.name in page.text
    for method in METHODS:
        assert method in page.text
    assert full.missing[0] in page.text
    for source in (
        "Nguyen et al. 2025",
        "Liang et al. 2024",
        "Yen et al. 2023",
        "Hnatiuk et al. 2024",
        "Zhao et al. 2024",
    ):
        assert source in page.text


def renamed(profile: Profile, name: str) -> Profile:
    """The profile with a text of someone else's wherever a user's text can be."""
    layers = [
        layer.model_copy(update={"name": f"{i}{name}", "reason": name, "module_type": name})
        for i, layer in enumerate(profile.layers)
    ]
    target = profile.target.model_copy(
        update={"spec": name, "picked": name, "file": name, "kwargs": {name: name}}
    )
    environment = profile.environment.model_copy(update={"platform": name})
    contents = [one.model_copy(update={"name": name}) for one in profile.memory.contents]
    memory = profile.memory.model_copy(update={"contents": contents})
    kernels = [one.model_copy(update={"driver": name}) for one in profile.decompositions]
    return profile.model_copy(
        update={
            "layers": layers,
            "target": target,
            "environment": environment,
            "memory": memory,
            "decompositions": kernels,
            "missing": [name],
        }
    )


def test_texts_of_the_users_do_no_harm(full, page):
    profile = renamed(full, HOSTILE)
    hostile = Page(render(profile, recommend(profile, budget_bytes=24 * 2**30)))
    assert hostile.open == []
    kinds = [tag for tag, _ in page.elements]
    # as many elements as in the page of the harmless profile, and none of the hostile ones
    assert sorted(set(kinds)) == sorted({tag for tag, _ in hostile.elements})
    assert "img" not in kinds
    assert len(hostile.scripts) == len(page.scripts) == 3
    assert HOSTILE in hostile.text
    assert "<" not in hostile.scripts[0]
    marks = hostile.figures["chart-ranks"]["data"][0]
    assert "<" not in marks["text"][0]  # plotly reads tags: it is given entities
    assert "%{" not in marks["text"][0]


def test_scripts_are_let_in_by_their_hashes_alone(page):
    (policy,) = [
        a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    (allowed,) = re.findall(r"script-src ([^;]*)", policy)
    assert len(re.findall(r"'sha256-[\w+/]{43}='", allowed)) == 2
    assert "unsafe" not in allowed


def test_a_simulated_profile_says_what_is_left_out(full):
    layers = [
        layer.model_copy(
            update=dict.fromkeys((
                "spectrum",
                "subspace",
                "noise",
                "diagonality",
                "off_diagonal",
                "agreement",
                "blocks",
                "activations",
            ))
        )
        for layer in full.layers
    ]
    settings = full.settings.model_copy(update={"simulate": True})
    times = dict.fromkeys(("ordinary_ms", "refresh_ms", "staggered_ms", "overhead_ms"))
    bare = full.model_copy(
        update={
            "layers": layers,
            "settings": settings,
            "methods": [cost.model_copy(update=times) for cost in full.methods],
            "decompositions": [],
            "spent": [],
            "race": None,
        }
    )
    found = Page(render(bare))
    assert {
        "spectra",
        "layers",
        "diagonality",
        "subspaces",
        "noise",
        "blocks",
        "activations",
        "time",
        "cost",
    } & set(found.ids("section")) == set()
    assert {"summary", "memory-use", "method-table", "role", "left-out"} <= set(
        found.ids("section")
    )
    assert found.text.count("nothing was run (--simulate)") == 8
    assert sorted(found.figures) == ["chart-memory", "chart-state"]


def test_a_profile_with_holes_is_drawn_without_them(full):
    layers = [
        layer.model_copy(
            update={"diagonality": None, "subspace": {}}
            if index % 2
            else {"noise": None, "blocks": None}
        )
        for index, layer in enumerate(full.layers)
    ]
    methods = [
        cost.model_copy(
            update={"peak": None if index % 2 else cost.peak.model_copy(update={"categories": {}})}
        )
        for index, cost in enumerate(full.methods)
    ]
    found = Page(render(full.model_copy(update={"layers": layers, "methods": methods})))
    assert len(found.figures["chart-diagonality"]["data"][0]["x"]) == 4
    (whole,) = [t for t in found.figures["chart-memory"]["data"] if t["type"] == "bar"]
    assert len(whole["x"]) == len(METHODS) // 2


def test_rendering_takes_a_profile_without_any_layer_or_method(full):
    nothing = {"layers": [], "methods": [], "decompositions": [], "race": None}
    empty = full.model_copy(update=nothing)
    assert Page(render(empty)).figures == {}


def test_500_layers_stay_under_8_megabytes():
    profile = full_profile(500)
    html = render(profile, recommend(profile, budget_bytes=24 * 2**30))
    assert len(html.encode()) < 8 * MEGABYTE
    figures = Page(html).figures
    assert len(figures["chart-energy"]["views"]) == 500
    # however many layers: as few traces as for eight
    assert max(len(figure["data"]) for figure in figures.values()) <= 12


def test_the_command_writes_the_page(subopt, folder, full):
    full.save(folder / ".subopt" / "profile.json")
    ended = subopt("report")
    assert (ended.status, ended.out) == (0, "")
    written = (folder / "report.html").read_text(encoding="utf-8")
    assert ended.err == f"wrote report.html ({len(written.encode()) / 2**20:.3g} MiB)\n"
    assert written == render(full, own_advice(full), "subopt recommend")
    assert subopt("report", "-o", "report.html").status == 0  # over its own report
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("report")) == [
        "report.html"
    ]


def test_the_command_does_not_overwrite_other_files(subopt, folder, full):
    full.save(folder / "p.json")
    notes = folder / "notes.html"
    notes.write_text("<p>my notes</p>")
    refused = subopt("report", "p.json", "-o", "notes.html")
    assert refused.status == UsageError.exit_status
    assert "notes.html exists and is not a report" in refused.err
    assert notes.read_text() == "<p>my notes</p>"
    assert subopt("report", "p.json", "-o", "notes.html", "--force").status == 0
    assert MARK in notes.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, "no JSON", '{"schema_version": 1}'])
def test_a_bad_profile_ends_with_status_2(subopt, folder, content):
    if content is not None:
        (folder / "p.json").write_text(content)
    ended = subopt("report", "p.json")
    assert ended.status == 2
    assert "p.json" in ended.lines[0]
    assert not (folder / "report.html").exists()
