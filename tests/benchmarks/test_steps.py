"""The benchmarks of steps, kernels, memory and growth: their verdicts, their reports, and their smallest runs."""

from __future__ import annotations

import importlib
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Return a function that imports a script as it finds its neighbours when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    found = [path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.py")]
    for name in [".".join(path.parts) for path in found]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


def step_row(name, ordinary, refresh=(), *, own_period=None):
    return {
        "name": name,
        "source": "subopt",
        "own_period": own_period,
        "first_ms": 900.0,
        "ordinary_ms": list(ordinary),
        "refresh_ms": list(refresh),
        "state_bytes": 2**20,
    }


def bound_row(of, products, adam=0.0):
    return {"of": of, "gflop": 1.0, "products_ms": [products], "adam_ms": [adam]}


def fast_group(**changes):
    steps = {
        "AdamW, foreach": [50.0],
        "AdamW, fused": [10.0],
        "adamw": [10.4, 99.0, 10.2],
        "lion": [9.0],
        "Lion, pytorch_optimizer": [8.0],
        "Lion, bitsandbytes": [30.0],
        "galore": [130.0],
        "GaLore, galore-torch": [165.0],
        "GaLore, pytorch_optimizer": [128.0],
        "osd": [121.0],
        **changes,
    }
    refreshes = {"galore": [1000.0], "GaLore, galore-torch": [3900.0]}
    return {
        "name": "fast",
        "title": "Fast",
        "layers": 8,
        "rounds": 3,
        "shapes": [[512, 512]],
        "rows": [
            step_row(name, times, refreshes.get(name, ()), own_period=200 * (name in refreshes))
            for name, times in steps.items()
        ],
        "bounds": [bound_row("galore", 100.0, adam=8.0)],
        "missing": [{"name": "SOAP, heavyball", "why": "ImportError: no\nheavyball"}],
        "command": "make bench-steps",
        "conditions": {"cpu": "a cpu", "threads": 2},
    }


def judged(load, measured):
    verdicts = load("render.steps").verdicts(measured)
    return {verdict.line: (verdict.measured, verdict.holds) for verdict in verdicts}


def test_verdicts_are_computed_from_the_medians_of_one_run(load):
    found = judged(load, {"groups": [fast_group()]})
    assert found["adamw: step / torch's fused"] == ("1.04x", True)
    assert found["lion: step / the best of the peers"] == ("1.125x", False)
    # the low-rank Adam is not a product: (130 - 8) / 100
    assert found["galore, ordinary: (step - low-rank Adam) / bound"] == ("1.22x", False)
    assert found["galore, ordinary: step / the faster GaLore peer's"] == ("1.016x", False)
    assert found["galore: galore-torch's refresh / its own"] == ("3.9x", True)
    assert found["osd: step / foreach AdamW"] == ("2.42x", False)


def test_what_was_not_measured_is_neither_held_nor_failed(load):
    found = judged(load, {"groups": [fast_group()]})
    assert found["soap, ordinary: step / bound"] == ("–", None)
    assert found["galore, staggered: longest step / median step"] == ("–", None)
    text = "\n".join(
        load("common.verdicts").verdict_table(load("render.steps").verdicts({"groups": []}))
    )
    assert "**no**" not in text
    assert "0 of" in text


def test_a_staggered_spike_is_the_longest_step_by_the_median_one(load):
    measured = {"groups": [], "spikes": {"steps_ms": [100.0, 100.0, 110.0, 149.0]}}
    line = "galore, staggered: longest step / median step"
    assert judged(load, measured)[line] == ("1.419x", True)
    measured["spikes"]["steps_ms"].append(160.0)
    assert judged(load, measured)[line] == ("1.455x", True)
    measured["spikes"]["steps_ms"] = [100.0, 100.0, 160.0]
    assert judged(load, measured)[line] == ("1.6x", False)


def test_a_table_of_steps_has_means_over_a_period_and_ratios(load):
    text = load("render.steps").render({"sizes": {"60m": {"groups": [fast_group()]}}})
    # 165 + (3900 - 165) / 200, then by 50 and by 10
    assert (
        "| GaLore, galore-torch | subopt | 165 (165–165) | 3900 (3900–3900) | 183.7 | 3.30 | 16.5 |"
        in text
    )
    assert "| 100.0 | 8.0 | 1.30 | 1.0 | 0.50 |" in text
    assert "SOAP, heavyball is missing: ImportError: no heavyball" in text
    assert "`make bench-steps`: cpu a cpu, threads 2." in text


def test_a_size_measured_again_replaces_its_own_groups_alone(load, tmp_path):
    bench = load("bench_steps")
    path = tmp_path / "steps.json"
    old, other = fast_group(), {**fast_group(), "name": "slow"}
    path.write_text(
        json.dumps({"sizes": {"60m": {"size": "60m", "groups": [old, other], "spikes": 1}}})
    )
    new = bench.merged(path, {"size": "60m", "groups": [{"name": "fast", "rounds": 77}]})
    assert [group["rounds"] for group in new["sizes"]["60m"]["groups"]] == [77, 3]
    assert new["sizes"]["60m"]["spikes"] == 1
    both = bench.merged(path, {"size": "130m", "groups": []})
    assert list(both["sizes"]) == ["60m", "130m"]


def test_a_contender_counts_its_refreshes_apart_and_its_first_step_not_at_all(load):
    contenders = load("common.contenders")
    weights = [torch.randn(12, 20)]
    contender = contenders.Contender.of(contenders.ours("galore", rank=3), weights)
    for index in range(2 * contenders.PERIOD + 1):
        contender.step([torch.randn(12, 20)], index)
    row = contender.row()
    assert len(row["refresh_ms"]) == 2
    assert len(row["ordinary_ms"]) == 2 * contenders.PERIOD - 2
    assert row["own_period"] == 200
    assert not torch.equal(contender.parameters[0], weights[0])


def test_state_is_counted_by_whole_storages_wherever_they_hang(load):
    held_bytes = load("common.contenders").held_bytes

    class Projector:
        def __init__(self):
            self.basis = torch.zeros(100, 100)[:, :2]

    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([parameter])
    shared = torch.zeros(8)
    optimizer.state[parameter] = {
        "p": Projector(),
        "pair": [shared, shared[2:]],
        "own": parameter.data,
    }
    assert held_bytes(optimizer, [parameter]) == 4 * (100 * 100 + 8)


def test_bounds_multiply_what_their_formulas_say(load):
    bounds = load("common.bounds")
    m, n, r = 8, 20, 2
    wanted = {
        "galore": 4 * m * n * r,
        "osd": 6 * m * n * r + 8 * m * r * r,
        "adadiag": 4 * m * m * n,
        "adadiag++": 4 * (m * m * n + m * n * n),
        "soap": 6 * (m * m * n + m * n * n),
        "soap-one-sided": 6 * m * m * n,
    }
    for shape in ((m, n), (n, m)):
        found = {
            name: round(1e9 * bounds.Unavoidable.of(bound, [torch.zeros(shape)]).row()["gflop"])
            for name, bound in bounds.BOUNDS.items()
        }
        assert found == wanted
    left = sum(
        2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in bounds.pca(torch.zeros(m, n), r)
    )
    assert left == 4 * m * n * r + 8 * m * r * r


def test_the_smallest_run_of_steps_reports_a_missing_peer(load, monkeypatch, tmp_path):
    bench, contenders = load("bench_steps"), load("common.contenders")

    def broken(parameters):
        raise ImportError("no such package")

    entries = [contenders.ours("galore", solver="none"), contenders.Entry("Peer", "peer", broken)]
    entries += [contenders.ours("osd"), contenders.ours("hfac")]
    group = bench.Group("fast", "Fast", entries, ("osd", "hfac"), shapes=[(8, 12), (12, 8)])
    monkeypatch.setattr(bench, "GROUPS", {"fast": group})
    path = tmp_path / "steps.json"
    bench.main(["--rounds", "1", "--only", "fast", "--output", str(path)])
    (measured,) = json.loads(path.read_text())["sizes"]["60m"]["groups"]
    assert [row["name"] for row in measured["rows"]] == [
        "AdamW, foreach",
        "AdamW, fused",
        "osd",
        "hfac",
    ]
    assert all(len(row["ordinary_ms"]) == 1 for row in measured["rows"])
    assert measured["missing"][1] == {"name": "Peer", "why": "ImportError: no such package"}
    assert "galore is missing: OptionError" in path.with_suffix(".md").read_text()


def test_the_smallest_run_of_kernels(load, monkeypatch, tmp_path):
    bench = load("bench_kernels")
    given = {"w": torch.randn(24, 16)}
    monkeypatch.setattr(bench, "trained_layer", lambda device: [given, given])
    path = tmp_path / "kernels.json"
    bench.main(["--rounds", "1", "--shape", "16x24", "--output", str(path)])
    result = json.loads(path.read_text())
    (row,), (trained,) = result["shapes"], result["trained"]
    assert row["pca_error"] < 1e-4  # float32 rounding, of products in another order
    for found in (row["bases"], trained["bases"]):
        assert found["left_basis, rank r"]["energy"] == pytest.approx(1, rel=1e-5)
        assert found["left_basis, full"]["diagonality"] == pytest.approx(1, abs=1e-5)
        assert all(basis["orthonormality_error"] < 1e-5 for basis in found.values())
    assert trained["shape"] == [16, 24]
    text = path.with_suffix(".md").read_text()
    assert "16 x 24: closed form / its products" in text
    assert "refined_basis, rank r: energy, of the SVD's | at least 0.999 | 1 | yes |" in text


def test_gradients_of_a_training_are_of_its_layers_alone(load, monkeypatch):
    trained = load("common.trained")
    monkeypatch.setattr(trained, "BATCH_SIZE", 1)
    first, second = trained.trained_gradients("tiny", layers=1, sets=2, warm_up=0, gap=1)
    shapes = [tuple(gradient.shape) for gradient in first.values()]
    assert shapes == load("common.llama").layer_shapes("tiny")
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_the_bases_of_a_layer_are_those_of_all_its_matrices(load):
    render = load("render.kernels")
    rows = [
        {
            "ms": {
                "svd, thin": [60.0],
                "left_basis, rank r": [20.0],
                "refined_basis, rank r": [11.0],
                "svd, full": [svd],
                "left_basis, full": [exact],
                "one power step, full": [warm],
            },
            "bases": {
                "refined_basis, rank r": {"energy": energy, "orthonormality_error": 0.0},
                "left_basis, full": {"orthonormality_error": 2e-15},
                "one power step, full": {"orthonormality_error": 2e-5},
            },
        }
        for svd, exact, warm, energy in ((40.0, 20.0, 10.0, 1.0), (120.0, 40.0, 15.0, 0.99))
    ]
    found = [(v.measured, v.holds) for v in render.bases_of_a_layer(rows)]
    assert found == [
        ("3x", True),
        ("5.455x", False),
        ("2.667x", True),  # 40 + 120 by 20 + 40
        ("6.4x", True),
        ("0.99", False),
        ("2e-15", True),
        ("2e-05", False),
    ]
    assert {verdict.holds for verdict in render.bases_of_a_layer([])} == {None}


def test_a_step_is_tracked_to_the_prediction(load):
    bench = load("bench_step_memory")
    shapes = [(16, 16), (24, 16), (16, 24)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = bench.build("galore", parameters)
    pool = [torch.randn(shape) for shape in shapes]
    found = [bench.tracked(optimizer, parameters, pool) for _ in range(2)]
    assert max(found) == bench.predicted_transient("galore", shapes)
    row = {"name": "galore", "predicted_bytes": max(found), "tracked_bytes": found}
    row |= {"state_bytes": 5, "planned_state_bytes": 5}
    assert [verdict.holds for verdict in bench.verdicts([row])] == [True, True]
    row["tracked_bytes"] = [max(found) + bench.SLACK_BYTES + 1]
    assert [verdict.holds for verdict in bench.verdicts([row])] == [False, True]


def test_the_smallest_run_of_memory(load, monkeypatch, tmp_path):
    bench = load("bench_step_memory")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the high-water mark of a process can be read on Linux only")
    monkeypatch.setattr(bench, "in_child", lambda name, given: bench.measure(name, "tiny", 1))
    path = tmp_path / "memory.json"
    bench.main(["--only", "momentum", "--size", "tiny", "--layers", "1", "--output", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["state_bytes"] == row["planned_state_bytes"] > 2**20
    assert len(row["resident_bytes"]) == len(row["tracked_bytes"]) == bench.STEPS
    assert "2 of 2 lines hold" in path.with_suffix(".md").read_text()


def test_growth_is_fitted_from_the_widths_where_it_is_growth(load, monkeypatch, tmp_path):
    bench, render = load("bench_curves"), load("render.curves")
    contenders = load("common.contenders")
    monkeypatch.setattr(
        bench, "entries", lambda: [contenders.ours("galore"), contenders.ours("lion")]
    )
    path = tmp_path / "curves_cpu_x.json"
    arguments = [
        "--widths",
        "8",
        "16",
        "--depths",
        "--output",
        str(path),
        "--pictures",
        str(tmp_path),
    ]
    bench.main(arguments)
    result = json.loads(path.read_text())
    assert [row["width"] for row in result["widths"]] == [8, 16]
    drawn = ET.fromstring((tmp_path / "performance-width.svg").read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    assert not (tmp_path / "performance-depth.svg").exists()
    rows = [
        {"width": w, "steps": [step_row("galore", [w**3 / 1e6 + 1e6 * (w < 512)])], "spectra": {}}
        for w in (256, 512, 1024)
    ]
    ((name, ordinary, _, _),) = render.fits(rows, "width")
    assert (name, ordinary) == ("galore", pytest.approx(3))


def test_a_method_too_slow_for_the_next_width_is_left_behind(load):
    bench = load("bench_curves")
    row = step_row("soap", [100.0, 120.0], [3000.0])
    # eight times: the first step, one refresh and six ordinary ones, at their worst
    assert bench.at_twice_s(row) == pytest.approx(8 * (0.9 + 3.0 + 6 * 0.12))


def test_energies_are_judged_by_the_layer_they_were_promised_for(load):
    singular = load("common.singular_values")
    row = {
        "case": {"shape": [24, 40]},
        "result": singular.measure_singular_values({"shape": [24, 40]}),
    }
    assert row["result"]["share_error"]["energies, float64"] < 1e-6
    assert list(singular.verdicts([row])) == []
    row["case"]["shape"] = [2048, 5461]
    row["result"]["ms"] = {
        "energies, float64": [40.0], "energies, float32": [30.0],
        "svdvals, float32": [120.0], "svdvals, float64": [999.0],
    }  # fmt: skip
    assert [verdict.holds for verdict in singular.verdicts([row])] == [True, True, False, True]
    assert "| 2048 x 5461 | 40 | 30 | 120 | 999 | 3.00 | 4.00 |" in "\n".join(
        singular.report([row])
    )


def test_what_was_tried_is_divided_by_what_is_done(load, monkeypatch, tmp_path):
    bench = load("bench_reasons")

    def tried():
        """Nothing and nothing."""
        yield "Two of them", {"done": lambda: None, "tried": lambda: None}

    monkeypatch.setattr(bench, "COMPARISONS", (tried,))
    path = tmp_path / "reasons.json"
    bench.main(["--rounds", "3", "--output", str(path)])
    (comparison,) = json.loads(path.read_text())["comparisons"]
    assert {name: len(times) for name, times in comparison["ms"].items()} == {"done": 3, "tried": 3}
    comparison["ms"] = {"done": [2.0, 4.0, 4.0], "tried": [1.0, 2.0, 9.0]}
    report = bench.render({"comparisons": [comparison], "conditions": {}, "command": "x"})
    assert "| tried | 2.00 (1.50–5.50) | 0.50 |" in report
    assert "## Two of them\n\nNothing and nothing." in report


def test_a_batch_gives_what_its_members_give_one_by_one(load):
    bench = load("bench_reasons")
    title, runs = next(iter(bench.batching()))
    assert title.startswith("Eight products")
    each, batch = (run() for run in runs.values())
    assert len(each) == len(batch) == bench.LAYERS
    for one, other in zip(each, batch, strict=True):
        torch.testing.assert_close(one, other)


def test_an_example_measured_anew_takes_the_place_of_its_old_numbers_alone(load, tmp_path):
    bench = load("bench_predictions")
    path, (first, second) = tmp_path / "x.json", list(bench.EXAMPLES)[:2]

    def numbers(example, value):
        return {"example": example, "value": value}

    for example, value in ((second, 1), (first, 2), (second, 3)):
        result = bench.merged(path, numbers(example, value), [numbers(example, value)] * 2)
        path.write_text(json.dumps(result))
    expected = [numbers(first, 2), numbers(second, 3)]
    assert result["parts"] == expected
    assert result["rows"] == [expected[0]] * 2 + [expected[1]] * 2


def test_an_exponent_in_a_picture_is_fitted_from_where_the_tables_are(load):
    points = [(1.0, 900.0), (2.0, 4.0), (4.0, 16.0), (8.0, 64.0)]
    drawn = load("common.plot").plot("title", "x", "y", {"square": points}, fitted_from=2)
    assert "square, 2.00" in drawn
    assert drawn.count("<circle") == 4


def test_the_theorys_exponents_are_whole_and_fitted_ones_are_not(load):
    power = load("render.curves").power
    assert [power(3), power(1.0), power(2.956), power(None)] == ["3", "1.00", "2.96", "–"]
