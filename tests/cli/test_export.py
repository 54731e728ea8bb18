"""The exported tables hold the profile's numbers, types and gaps, survive both formats, and run nowhere."""

from __future__ import annotations

import csv
import importlib.util
import json

import pandas as pd
import pytest

from subopt.errors import UsageError
from subopt.profilers.export.frames import FORMULA_STARTS, TABLES, harmless, save_frames, to_frames

from .full_profile import full_profile

LAYERS = 5


@pytest.fixture(scope="module")
def full():
    return full_profile(LAYERS)


@pytest.fixture(scope="module")
def frames(full):
    return to_frames(full)


def test_every_table_has_its_columns_and_rows(full, frames):
    assert list(frames) == list(TABLES)
    for name, frame in frames.items():
        assert frame.dtypes.astype(str).to_dict() == dict(TABLES[name].columns)
        assert list(frame.columns) == list(TABLES[name].columns)
        assert len(frame) > 0, name
    assert len(frames["layers"]) == len(full.layers)
    assert len(frames["methods"]) == len(full.methods)


def test_columns_are_the_same_where_nothing_was_measured(full, frames):
    layers = [
        layer.model_copy(
            update=dict.fromkeys(
                (
                    "spectrum", "subspace", "noise", "diagonality", "off_diagonal", "agreement", "blocks",
                    "activations",
                )
            )
        )
        for layer in full.layers
    ]  # fmt: skip
    methods = [cost.model_copy(update={"peak": None}) for cost in full.methods]
    memory = full.memory.model_copy(update={"contents": [], "savings": []})
    bare = full.model_copy(
        update={
            "layers": layers, "methods": methods, "memory": memory, "decompositions": [], "spent": [], "missing": [],
        }
    )  # fmt: skip
    for name, frame in to_frames(bare).items():
        assert frame.dtypes.to_dict() == frames[name].dtypes.to_dict()
    assert len(to_frames(bare)["layers"]) == len(full.layers)
    assert len(to_frames(bare)["subspace_curves"]) == 0


def layer_rows(frames, table, layer, **where):
    frame = frames[table]
    rows = frame[frame["layer"] == layer.name]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def test_layers_hold_their_numbers(full, frames):
    layer = next(layer for layer in full.layers if layer.spectrum)
    row = layer_rows(frames, "layers", layer).iloc[0]
    assert row["shape"] == "x".join(map(str, layer.shape))
    assert (row["short_side"], row["long_side"]) == (min(layer.shape), max(layer.shape))
    assert row["effective_rank_max"] == layer.spectrum.effective_rank.max
    assert row["signal_share"] == layer.noise.signal_share
    assert row["agreement_eps"] == layer.agreement.eps
    assert row["input_block_share_noise"] == layer.blocks.by_input_noise
    assert row["input_effective_rank"] == layer.activations.effective_rank
    norm = next(layer for layer in full.layers if layer.module_type == "RMSNorm")
    assert layer_rows(frames, "layers", norm).iloc[0]["stable_rank_mean"] is pd.NA


def test_curves_and_histograms_are_long(full, frames):
    layer = next(layer for layer in full.layers if layer.spectrum)
    life = layer.subspace["momentum"]
    for basis, rank, curve in (
        ("frozen", life.rank, life.frozen),
        ("tracked", life.rank, life.tracked),
        *(("frozen", int(rank), curve) for rank, curve in life.at_rank.items()),
    ):
        where = {"source": "momentum", "basis": basis, "rank": rank}
        rows = layer_rows(frames, "subspace_curves", layer, **where)
        assert rows["lag_steps"].tolist() == life.lag
        assert rows["energy_share"].tolist() == curve
    counts = layer.off_diagonal.scale_free["raw"]
    rows = layer_rows(frames, "off_diagonal", layer, scale="scale_free", basis="raw")
    assert rows["pairs"].tolist() == counts
    assert rows["log10_from"].tolist() == layer.off_diagonal.edges[:-1]
    assert rows["log10_to"].tolist() == layer.off_diagonal.edges[1:]
    rows = layer_rows(frames, "rank_at_energy", layer, of="gradient")
    assert rows["rank_mean"].tolist() == [s.mean for s in layer.spectrum.rank_at_energy.values()]
    rows = layer_rows(frames, "energy_at_rank", layer, of="inputs")
    assert rows["energy_share_mean"].tolist() == list(layer.activations.energy_at_rank.values())
    assert rows["energy_share_min"].isna().all()


def test_diagonality_has_a_row_per_basis_and_age(full, frames):
    layer = next(layer for layer in full.layers if layer.diagonality)
    rows = layer_rows(frames, "diagonality", layer)
    raw = rows[rows["basis"] == "raw"].iloc[0]
    assert raw["ratio"] == layer.diagonality.raw.ratio
    assert raw["age_steps"] is pd.NA
    assert raw["white_noise"] == layer.diagonality.white_noise["raw"]
    stale = rows[rows["basis"] == "stale"]
    assert stale["age_steps"].tolist() == [int(age) for age in layer.diagonality.stale]
    assert stale["unbiased"].tolist() == [r.unbiased for r in layer.diagonality.stale.values()]


def test_costs_hold_their_numbers(full, frames):
    cost = full.methods[3]
    row = frames["methods"].iloc[3]
    assert (row["method"], row["state_bytes"]) == (cost.method, cost.state_bytes)
    assert json.loads(row["options_json"]) == cost.options
    assert row["peak_high_bytes"] == cost.peak.high_bytes
    assert row["staggered_ms"] == cost.staggered_ms
    phases = frames["phases"][frames["phases"]["method"] == cost.method]
    assert dict(zip(phases["phase"], phases["peak_bytes"], strict=True)) == (
        cost.peak.by_phase.model_dump()
    )
    split = frames["phase_categories"]
    split = split[(split["method"] == cost.method) & (split["phase"] == "step")]
    assert split["bytes"].sum() == sum(cost.peak.categories["step"].values())
    assert frames["memory"].iloc[0]["peak_bytes"] == full.memory.peak_bytes
    assert frames["memory_savings"]["freed_bytes"].sum() == sum(
        s.bytes for s in full.memory.savings
    )
    assert frames["decompositions"]["driver"].tolist() == [d.driver for d in full.decompositions]
    assert frames["spent"]["seconds"].sum() == pytest.approx(sum(s.seconds for s in full.spent))
    assert frames["run"].iloc[0]["steps"] == full.settings.steps
    assert json.loads(frames["run"].iloc[0]["kwargs_json"]) == full.target.kwargs


def test_bytes_beyond_what_a_float_holds_stay_exact(full):
    memory = full.memory.model_copy(update={"peak_bytes": 2**53 + 1, "activation_bytes": None})
    frame = to_frames(full.model_copy(update={"memory": memory}), ["memory"])["memory"]
    assert int(frame.iloc[0]["peak_bytes"]) == 2**53 + 1


def test_parquet_gives_back_the_same_frames(frames, tmp_path):
    files = save_frames(frames, tmp_path / "new" / "folder", "parquet")
    assert [file.name for file in files] == [f"{name}.parquet" for name in TABLES]
    for file in files:
        pd.testing.assert_frame_equal(pd.read_parquet(file), frames[file.stem])


def test_csv_gives_back_the_same_values_and_gaps(frames, tmp_path):
    for file in save_frames(frames, tmp_path, "csv"):
        table = TABLES[file.stem]
        read = pd.read_csv(file, dtype=dict(table.columns), keep_default_na=False, na_values=[""])
        pd.testing.assert_frame_equal(read, harmless(frames[file.stem]))


def test_only_files_of_the_tables_names_are_replaced(frames, tmp_path):
    (tmp_path / "notes.csv").write_text("mine")
    (tmp_path / "layers.csv").write_text("old")
    save_frames({"layers": frames["layers"]}, tmp_path, "csv")
    assert (tmp_path / "notes.csv").read_text() == "mine"
    assert (tmp_path / "layers.csv").read_text().startswith("layer,shape")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.csv", "notes.csv"]


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@sum(A1)", "\t=1", "\r=1", "a\r=1", '=HYPERLINK("x")']
)
def test_a_name_that_a_spreadsheet_would_run_is_made_harmless_in_csv(full, tmp_path, name):
    layers = [full.layers[1].model_copy(update={"name": name}), *full.layers[2:]]
    frames = to_frames(full.model_copy(update={"layers": layers}))
    save_frames(frames, tmp_path, "csv")
    for path in tmp_path.glob("*.csv"):
        with path.open(newline="") as file:
            texts = [kind == "string" for kind in TABLES[path.stem].columns.values()]
            for row in list(csv.reader(file))[1:]:
                cells = [cell for cell, is_text in zip(row, texts, strict=True) if is_text]
                assert not any(cell.startswith(FORMULA_STARTS) for cell in cells)
    with (tmp_path / "layers.csv").open(newline="") as file:
        mark = "" if name[0] == "a" else "'"
        assert list(csv.reader(file))[1][0] == mark + name.replace("\r", " ")
    assert frames["layers"]["layer"][0] == name  # the frames themselves, and Parquet, keep it
    save_frames(frames, tmp_path, "parquet")
    assert pd.read_parquet(tmp_path / "layers.parquet")["layer"][0] == name


def test_negative_numbers_stay_numbers_in_csv(full, frames, tmp_path):
    assert (frames["methods"]["overhead_ms"] < 0).any()
    save_frames({"methods": frames["methods"]}, tmp_path, "csv")
    read = pd.read_csv(tmp_path / "methods.csv")
    assert read["overhead_ms"].tolist() == [cost.overhead_ms for cost in full.methods]


def test_an_unknown_table_has_a_suggestion(full):
    with pytest.raises(UsageError, match="there is no table 'layer'; did you mean 'layers'"):
        to_frames(full, ["layer"])


def test_the_command_writes_a_folder(subopt, folder, full):
    full.save(folder / ".subopt" / "profile.json")
    ended = subopt("export", "-o", "tables")
    assert ended.status == 0, ended.err
    assert {path.stem for path in (folder / "tables").iterdir()} == set(TABLES)
    assert "layers.csv" in ended.out
    assert f"wrote {len(TABLES)} tables to tables" in ended.err
    some = subopt(
        "export", "--table", "spent", "--table", "run", "-o", "some", "--format", "parquet"
    )
    assert some.status == 0, some.err
    assert {path.name for path in (folder / "some").iterdir()} == {"spent.parquet", "run.parquet"}


def test_without_pyarrow_parquet_is_a_clear_error_and_csv_works(subopt, folder, full, monkeypatch):
    full.save(folder / "p.json")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pyarrow" else found(name, *rest),
    )
    ended = subopt("export", "p.json", "--format", "parquet", "-o", "out")
    assert ended.status == 2
    assert "pyarrow" in ended.err
    assert "subopt[export]" in ended.err
    assert not (folder / "out").exists()
    assert subopt("export", "p.json", "-o", "out").status == 0


def test_bad_files_are_status_2(subopt, folder, full):
    assert subopt("export", "nowhere.json").status == 2
    full.save(folder / "p.json")
    (folder / "file").write_text("")
    assert subopt("export", "p.json", "-o", "file").status == 2
    assert subopt("export", "p.json", "--table", "layer").status == 2
