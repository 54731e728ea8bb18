"""Loading a user's file: what is found, whose modules it gets, and how every mistake is reported."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from subopt.errors import PreflightError, SuboptError, TargetError, UsageError, UserCodeError
from subopt.profilers.target.load import load_target

ASSETS = Path(__file__).parents[2] / "assets"
HEAD = "import torch\nfrom torch import nn\n"
LINEAR = HEAD + "def build_model():\n    return nn.Linear(3, 2)\n"


@pytest.fixture
def project(tmp_path):
    """Return a function that writes a model.py and loads it."""

    def load(source, spec="model.py", kwargs=None, **options):
        (tmp_path / "model.py").write_text(source)
        return load_target(spec, kwargs, base=tmp_path, **options)

    return load


# -- what is found ------------------------------------------------------------------------------------------------


def test_build_model_is_recorded_with_file_line_and_hash(project, tmp_path):
    target = project(LINEAR)
    file = tmp_path / "model.py"
    record = target.record
    assert (record.spec, record.picked) == ("model.py", "function build_model")
    assert (record.file, record.line) == (str(file), 3)
    assert record.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not record.synthetic_data
    assert target.build_model().weight.shape == (2, 3)


def test_every_build_is_a_fresh_model(project):
    target = project(HEAD + "model = nn.Linear(3, 2)\n", "model.py:model")
    first, second = target.build_model(), target.build_model()
    assert torch.equal(first.weight, second.weight)
    assert first.weight.data_ptr() != second.weight.data_ptr()
    assert target.record.picked == "instance model"
    assert target.record.line == 3


def test_the_only_class_without_arguments_is_found(project):
    source = HEAD + (
        "class Block(nn.Linear):\n    def __init__(self, size):\n        super().__init__(size, size)\n"
        "class Net(nn.Module):\n    def __init__(self, size=3):\n"
        "        super().__init__()\n        self.block = Block(size)\n"
    )
    target = project(source, kwargs={"size": "5"})
    assert target.record.picked == (
        "class Net (the only model class of the file that needs no arguments)"
    )
    assert target.record.line == 6
    assert target.build_model().block.weight.shape == (5, 5)


def test_a_named_class_is_used(project):
    source = (
        HEAD
        + "class Net(nn.Linear):\n    def __init__(self, size: int):\n        super().__init__(size, 2)\n"
    )
    target = project(source, "model.py:Net", {"size": "7"})
    assert target.record.picked == "class Net"
    assert target.build_model().weight.shape == (2, 7)


def test_a_package_module_and_a_file_inside_a_package_import_relatively():
    by_name = load_target("network.model:Network", base=ASSETS / "packaged")
    by_file = load_target("packaged/network/model.py", {"size": "4"}, base=ASSETS)
    assert by_name.record.file == by_file.record.file == str(ASSETS / "packaged/network/model.py")
    model = by_file.build_model()
    assert type(model).__module__ == "network.model"
    assert model.linear.weight.shape == (4, 4)


def test_a_model_pickles_under_its_real_module_name():
    model = load_target("packaged/network/model.py", base=ASSETS).build_model()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.linear.weight, model.linear.weight)


@pytest.mark.parametrize("name", ["model", "only_in_this_test"])
def test_a_changed_file_is_read_again(tmp_path, name):
    widths = []
    for width in (2, 4096):
        (tmp_path / f"{name}.py").write_text(LINEAR.replace("3, 2", f"3, {width}"))
        target = load_target(f"{name}.py", base=tmp_path)
        widths.append((target.build_model().out_features, target.record.sha256))
    assert [width for width, _ in widths] == [2, 4096]
    assert widths[0][1] != widths[1][1]


def test_the_arguments_to_load_it_again_load_the_same(project):
    source = HEAD + "def build_model(width: int = 3):\n    return nn.Linear(3, width)\n"
    target = project(source, kwargs={"width": "6"}, inputs=["float32[4,3]"])
    again = load_target(**pickle.loads(pickle.dumps(target.load_arguments())))
    assert again.record == target.record
    assert next(iter(again.data.batches(4))).shape == (4, 3)


@pytest.mark.parametrize("spec", ["model.py", "model.py:instance"])
def test_building_under_fake_tensors_allocates_nothing(project, spec):
    target = project(
        LINEAR + "instance = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))\n", spec
    )
    with FakeTensorMode():
        model = target.build_model()
        out = model(torch.empty(4, 3))
    assert out.shape == (4, 2)
    assert all(isinstance(tensor, FakeTensor) for tensor in [*model.parameters(), *model.buffers()])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_truncated_normal_can_be_built_under_fake_tensors(project):
    target = project(
        HEAD
        + "def build_model():\n    model = nn.Linear(3, 2)\n    nn.init.trunc_normal_(model.weight, std=0.02)\n"
        "    return model\n"
    )
    with FakeTensorMode():
        assert isinstance(target.build_model().weight, FakeTensor)
    assert float(target.build_model().weight.detach().abs().max()) < 0.2


# -- whose modules it gets ----------------------------------------------------------------------------------------


def test_a_project_with_our_names_gets_its_own_modules_and_we_keep_ours():
    path = list(sys.path)
    target = load_target("model.py", base=ASSETS / "shadowing")
    assert target.build_model().weight.shape == (
        4,
        3,
    )  # its build_model asserts whose modules it has
    assert len(list(target_batches(target))) == 2
    assert sys.modules["yaml"] is yaml
    assert yaml.safe_load("a: 1") == {"a": 1}
    assert sys.path == path
    import profile

    assert not hasattr(profile, "BATCHES")


def target_batches(target):
    with target.code.running("iterating"):
        yield from list(target.data.batches(2))


def test_two_projects_with_a_module_of_one_name_do_not_mix(tmp_path):
    targets = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sizes.py").write_text(f"SIZE = {len(name)}\n")
        (folder / "model.py").write_text(
            HEAD + "def build_model():\n    import sizes\n    return nn.Linear(sizes.SIZE, 2)\n"
        )
        targets.append(load_target("model.py", base=folder))
    assert [target.build_model().in_features for target in targets] == [5, 6]
    assert [target.build_model().in_features for target in targets] == [5, 6]


# -- arguments ----------------------------------------------------------------------------------------------------

ARGUMENTS = HEAD + (
    "from typing import Literal, Optional\n"
    "def build_model(width: int = 4, scale: float = 1.0, bias: bool = True, kind: Literal['a', 'b'] = 'a',\n"
    "                depth: Optional[int] = None, name: 'str | None' = None, drop=0, flag=False, free=None):\n"
    "    model = nn.Linear(2, width)\n"
    "    model.arguments = dict(locals())\n"
    "    return model\n"
)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("width", "8", 8),
        ("width", 8, 8),
        ("scale", "2", 2.0),
        ("scale", "1e-3", 1e-3),
        ("bias", "false", False),
        ("bias", False, False),
        ("bias", "1", True),
        ("kind", "b", "b"),
        ("depth", "3", 3),
        ("name", "12", "12"),
        ("drop", "0.5", 0.5),
        ("drop", "2", 2),
        ("flag", "yes", True),
        ("free", "7", 7),
        ("free", "0.5", 0.5),
        ("free", "true", True),
        ("free", "text", "text"),
    ],
)
def test_arguments_are_converted(project, key, text, value):
    target = project(ARGUMENTS, kwargs={key: text})
    received = target.build_model().arguments[key]
    assert received == value
    assert type(received) is type(value)
    assert target.record.kwargs == {key: value}


def test_a_builder_with_open_keywords_takes_any_name(project):
    source = HEAD + "def build_model(**kwargs):\n    return nn.Linear(kwargs['n'], 2)\n"
    assert project(source, kwargs={"n": "9"}).build_model().in_features == 9


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"widht": "8"}, r"build_model has no argument 'widht'; did you mean 'width'\?"),
        ({"width": "wide"}, r"width=wide: build_model takes int for 'width'"),
        ({"width": "1.5"}, r"build_model takes int for 'width'"),
        ({"bias": "maybe"}, r"build_model takes bool for 'bias'"),
        ({"kind": "c"}, r"build_model takes 'a' or 'b' for 'kind'"),
        ({"scale": "nan"}, r"build_model takes float for 'scale'"),
    ],
)
def test_wrong_arguments_are_refused(project, kwargs, message):
    with pytest.raises(UsageError, match=message):
        project(ARGUMENTS, kwargs=kwargs)


def test_a_misspelt_name_lists_the_known_ones(project):
    with pytest.raises(UsageError) as caught:
        project(ARGUMENTS, kwargs={"widht": "8"})
    assert "width: int = 4" in str(caught.value.hint)


def test_a_required_argument_left_out_is_named(project):
    with pytest.raises(UsageError, match="build_model needs a value for 'width'"):
        project(HEAD + "def build_model(width):\n    return nn.Linear(2, width)\n")


def test_an_instance_takes_no_arguments(project):
    with pytest.raises(UsageError, match="takes no width="):
        project(HEAD + "model = nn.Linear(2, 2)\n", "model.py:model", {"width": "3"})


# -- mistakes -----------------------------------------------------------------------------------------------------

TWO = HEAD + (
    "class A(nn.Linear):\n    def __init__(self, size=2):\n        super().__init__(size, size)\n"
    "class B(A): pass\n"
    "def make(depth: int): return A(depth)\n"
)


@pytest.mark.parametrize(
    ("source", "spec", "message", "hint"),
    [
        (LINEAR, "modle.py", r"there is no file modle.py; did you mean 'model.py'\?", "looked in"),
        (LINEAR, "model.py:", "names no model", "model.py:Net"),
        (LINEAR, ":Net", "names no model", "model.py:Net"),
        (LINEAR, "", "names no model", "model.py:Net"),
        (
            LINEAR,
            "model.py:biuld_model",
            r"no 'biuld_model'; did you mean 'build_model'\?",
            "build_model()",
        ),
        (LINEAR, "nothing.here:Net", "there is no module 'nothing'", ".py"),
        (LINEAR, "model.nn2:Net", "there is no module 'model.nn2'", ".py"),
        (LINEAR, "config.json", "there is no module 'config'", ".py"),
        (LINEAR, "some folder", "neither a Python file nor a module", "path/model.py"),
        (LINEAR, "../", "is a folder", "../model.py"),
        (
            TWO,
            "model.py",
            "more than one model class",
            "model.py:A; it has A(size=2), B(size=2), make(depth)",
        ),
        (HEAD + "x = 1\n", "model.py", "no build_model()", "define build_model()"),
        (
            HEAD + "x = 1\n",
            "model.py:x",
            "model.py:x is an int, not a model",
            "define build_model()",
        ),
        (HEAD + "class X: pass\n", "model.py:X", "model.py:X is a class, not a model", "define"),
        (HEAD + "def build_model(:\n", "model.py", "model.py, line 3: invalid syntax", "correct"),
        (
            "import not_installed_at_all\n",
            "model.py",
            "No module named 'not_installed_at_all'",
            "install it",
        ),
        ("from . import sibling\n", "model.py", "relative import", "import"),
        (
            LINEAR + "batches = [1]\n",
            "model.py",
            "batches in model.py is a list",
            "define batches(batch_size)",
        ),
        (
            LINEAR + "loss = nn.MSELoss()\n",
            "model.py",
            "loss in model.py is a MSELoss",
            "loss(model, batch)",
        ),
        (
            LINEAR + "def batches(): pass\n",
            "model.py",
            "cannot be called as batches(batch_size)",
            "batches()",
        ),
        (
            LINEAR + "def loss(x): pass\n",
            "model.py",
            "cannot be called as loss(model, batch)",
            "loss(x)",
        ),
    ],
)
def test_a_target_that_makes_no_sense_is_one_clear_line(project, source, spec, message, hint):
    with pytest.raises(TargetError) as caught:
        project(source, spec)
    error = caught.value
    assert message.replace(r"\?", "?") in error.message
    assert error.hint is not None
    assert hint in error.hint
    assert error.exit_status == 2
    assert "\n" not in error.hint


@pytest.mark.parametrize("name", ["os.py", "my.model.py"])
def test_a_file_that_no_import_can_name_is_refused(tmp_path, name):
    (tmp_path / name).write_text(LINEAR)
    with pytest.raises(TargetError, match="cannot be imported") as caught:
        load_target(name, base=tmp_path)
    assert caught.value.hint == "rename the file"


def test_a_builder_must_return_a_module(project):
    target = project("def build_model(size=3):\n    return [size]\n", kwargs={"size": "4"})
    with pytest.raises(
        TargetError, match=r"build_model\(size=4\) returned a list, not a torch.nn.Module"
    ):
        target.build_model()


# -- errors inside the user's code --------------------------------------------------------------------------------


def test_an_error_in_their_code_shows_their_frames_only(project):
    source = HEAD + (
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return nn.functional.linear(x, torch.ones(2, 9))\n"
        "def build_model():\n    return Net()\n"
        "def loss(model, batch):\n    return model(batch)\n"
    )
    target = project(source)
    with pytest.raises(UserCodeError) as caught:
        target.data.loss(target.build_model(), torch.ones(4, 3))
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("loss(model, batch) failed: RuntimeError: ")
    assert lines[1:] == [
        "  model.py:9 in loss: return model(batch)",
        "  model.py:5 in forward: return nn.functional.linear(x, torch.ones(2, 9))",
    ]
    assert caught.value.exit_status == 1
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "raise ValueError('no luck')\n",
            "importing model failed: ValueError: no luck\n  model.py:1 in <module>",
        ),
        ("import sys; sys.exit(3)\n", "importing model failed: SystemExit: 3"),
    ],
)
def test_a_failing_import_is_their_error(project, source, message):
    with pytest.raises(UserCodeError) as caught:
        project(source)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "torch.OutOfMemoryError"])
def test_an_interrupt_and_out_of_memory_pass_through(project, error):
    target = project(HEAD + f"def build_model():\n    raise {error}()\n")
    path = list(sys.path)
    with pytest.raises((KeyboardInterrupt, torch.OutOfMemoryError)) as caught:
        target.build_model()
    assert not isinstance(caught.value, SuboptError)
    assert sys.path == path


def test_what_their_code_prints_stays_off_stdout(project, capsys):
    project("print('hello')\n" + LINEAR)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_an_argument_parser_of_theirs_does_not_see_our_arguments(project, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["subopt", "profile", "--batch-size", "3"])
    source = "import argparse\nargs = argparse.ArgumentParser().parse_args()\n" + LINEAR
    assert project(source).build_model().in_features == 3
    assert sys.argv == ["subopt", "profile", "--batch-size", "3"]


# -- loss, data, groups -------------------------------------------------------------------------------------------


class Output:
    def __init__(self, loss):
        self.loss = loss


@pytest.mark.parametrize(
    ("batch", "called"),
    [
        ({"x": torch.ones(2), "y": torch.ones(2)}, "x + y"),
        ((torch.ones(2), torch.ones(2)), "x + y"),
        ([torch.ones(2), torch.ones(2)], "x + y"),
        (torch.ones(2), "x"),
    ],
)
@pytest.mark.parametrize("wrap", [Output, lambda loss: loss])
def test_the_default_loss_calls_the_model_on_the_batch(project, batch, called, wrap):
    class Net(nn.Module):
        def forward(self, x, y=0):
            return wrap((x + y).sum())

    loss = project(LINEAR).loss(Net(), batch)
    assert float(loss) == {"x + y": 4.0, "x": 2.0}[called]


@pytest.mark.parametrize("batch", ["text", 3])
def test_a_batch_that_no_model_takes_is_refused(project, batch):
    with pytest.raises(PreflightError, match="only dicts, tuples, lists and tensors"):
        project(LINEAR).loss(nn.Linear(3, 2), batch)


def test_a_loss_that_is_no_tensor_is_refused(project):
    target = project(LINEAR + "def loss(model, batch):\n    return 1.5\n")
    with pytest.raises(PreflightError, match="the loss is a float, not a tensor"):
        target.data.loss(target.build_model(), None)


def test_without_batches_the_hint_names_the_way_out(project):
    with pytest.raises(PreflightError, match="no batches") as caught:
        project(LINEAR).data.batches(2)
    assert "--input" in str(caught.value.hint)


def test_batches_must_be_iterable(project):
    target = project(LINEAR + "def batches(batch_size):\n    pass\n")
    with pytest.raises(PreflightError, match=r"batches\(2\) returned a NoneType"):
        target.data.batches(2)


def test_eval_batches_are_optional(project):
    without = project(LINEAR)
    assert not without.data.has_eval
    assert without.data.eval_batches(2) == ()
    target = project(
        LINEAR + "def eval_batches(batch_size):\n    return [torch.ones(batch_size, 3)]\n"
    )
    assert target.data.has_eval
    assert [batch.shape for batch in target.data.eval_batches(5)] == [(5, 3)]


def test_param_groups_are_theirs_or_none(project):
    model = nn.Linear(3, 2)
    assert project(LINEAR).param_groups(model) is None
    source = (
        LINEAR + "def param_groups(model):\n    return [{'params': [model.weight], 'lr': 0.5}]\n"
    )
    groups = project(source).param_groups(model)
    assert groups[0]["params"][0] is model.weight
    assert groups[0]["lr"] == 0.5


def test_param_groups_of_another_form_are_refused(project):
    target = project(LINEAR + "def param_groups(model):\n    return model.parameters()\n")
    with pytest.raises(TargetError, match="list of dicts"):
        target.param_groups(nn.Linear(3, 2))


# -- synthetic data -----------------------------------------------------------------------------------------------


def test_named_inputs_make_a_dict_of_the_asked_batch_size(project):
    inputs = ["ids=int64[8,6]<5", "mask=bool[8,6]", "table=float32[6,6]"]
    target = project(LINEAR, inputs=inputs)
    batch = next(iter(target.data.batches(3)))
    assert {name: (t.dtype, tuple(t.shape)) for name, t in batch.items()} == {
        "ids": (torch.int64, (3, 6)),
        "mask": (torch.bool, (3, 6)),
        "table": (torch.float32, (6, 6)),
    }
    assert 0 <= int(batch["ids"].min()) <= int(batch["ids"].max()) < 5
    assert target.record.synthetic_data


def test_an_unnamed_input_is_a_tensor_and_several_are_a_tuple(project):
    assert (
        next(iter(project(LINEAR, inputs=["bfloat16[4,3]"]).data.batches(4))).dtype
        is torch.bfloat16
    )
    pair = next(iter(project(LINEAR, inputs=["float32[4,3]", "int64[4]<10"]).data.batches(4)))
    assert [tuple(tensor.shape) for tensor in pair] == [(4, 3), (4,)]


def test_described_inputs_replace_the_users_data(project):
    source = LINEAR + "def batches(n): return [1]\ndef eval_batches(n): return [1]\n"
    target = project(source, inputs=["float32[4,3]"])
    assert next(iter(target.data.batches(2))).shape == (2, 3)
    assert not target.data.has_eval


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["ids"], "does not describe an input"),
        (["ids=int63[8]<5"], r"no dtype 'int63'; did you mean 'int64'\?"),
        (["ids=int64[8]"], "need an upper bound"),
        (["ids=int64[8]<0"], "1 or more"),
        (["ids=int8[8]<300"], "fit int8"),
        (["x=float32[8]<5"], "only integers"),
        (["x=float32[]"], "positive sizes"),
        (["x=float32[8,0]"], "positive sizes"),
        (["x=float32[8]", "float32[8]"], "some have none"),
        (["x=float32[8]", "x=float32[8]"], "same name"),
    ],
)
def test_a_wrong_input_description_is_refused(project, inputs, message):
    with pytest.raises(UsageError, match=message):
        project(LINEAR, inputs=inputs)


# -- what a recipe of somebody else's could name ------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["os:system", "subprocess:getoutput", "torch.nn:Linear"])
def test_a_module_is_a_file_of_the_users_own(project, spec):
    with pytest.raises(
        TargetError, match=f"there is no module '{spec.split('.')[0].split(':')[0]}'"
    ):
        project(LINEAR, spec)


@pytest.mark.parametrize("library", [subprocess, yaml, torch.nn])
def test_a_file_of_a_library_is_no_model_file(project, library):
    with pytest.raises(TargetError, match="belongs to Python or to an installed package"):
        project(LINEAR, f"{library.__file__}:anything")


@pytest.mark.parametrize(
    "source",
    [
        "from os import system as it\n",
        "from subprocess import getoutput as it\n",
        "from subprocess import Popen as it\n",
        "from torch.nn import Linear as it\n",
        "import functools, os\nit = functools.partial(os.system, 'true')\n",
    ],
)
def test_what_a_model_file_imports_cannot_be_named(project, source):
    with pytest.raises(
        TargetError, match=r"it is not defined in model\.py|it is a class"
    ) as caught:
        project(source + LINEAR, "model.py:it")
    assert "build_model" in str(caught.value.hint)


def test_an_imported_build_model_is_the_files_own_choice(project, tmp_path):
    (tmp_path / "nets.py").write_text(LINEAR)
    target = project("from nets import build_model\n", "model.py:build_model")
    assert target.build_model().in_features == 3


def test_a_module_is_looked_for_beside_the_recipe_and_then_in_the_current_folder(
    tmp_path, monkeypatch
):
    recipes, work = tmp_path / "recipes", tmp_path / "work"
    for folder, width in ((recipes / "here", 4), (work / "here", 5), (work / "there", 6)):
        folder.mkdir(parents=True)
        (folder / "net.py").write_text(LINEAR.replace("3, 2", f"3, {width}"))
    monkeypatch.chdir(work)
    widths = [
        load_target(f"{name}.net:build_model", base=recipes).build_model().out_features
        for name in ("here", "there")
    ]
    assert widths == [4, 6]
    with pytest.raises(TargetError, match=r"there is no module 'here\.other'"):
        load_target("here.other:Net", base=recipes)
