"""Progress goes to stderr: lines without a terminal, a bar that leaves nothing behind on one."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from subopt.profilers.effort import Progress
from subopt.profilers.record.profile import Environment, Gpu
from subopt.recipes.training import events
from subopt.terminal.doctor import concerns
from subopt.terminal.output import Output
from subopt.terminal.progress import StageProgress, TrainingProgress


def stepped(step: int) -> events.Stepped:
    return events.Stepped(
        step=step, steps=9, loss=2.5, lr=1e-3, grad_norm=None, tokens=8, tokens_per_s=100.0,
        step_ms=80.0, memory_bytes=None, time_left_s=5.0,
    )  # fmt: skip


def test_each_stage_is_named_once(capsys):
    with StageProgress(Output()) as progress:
        for event in (
            Progress("loading", 0, 1),
            Progress("a", 0, 2),
            Progress("a", 1, 2),
            Progress("b", 0, 3),
        ):
            progress(event)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["a ...", "b ..."]
    assert captured.out == ""


def test_training_says_what_happens_and_not_every_step(capsys):
    with TrainingProgress(Output()) as progress:
        for step in range(1, 10):
            progress(stepped(step))
        progress(events.Evaluated(9, 2.25, 16))
        progress(events.Saved(9, Path("step-9")))
        progress(events.Resumed(4, Path("step-4")))
        progress(events.Resumed(0, None))
        progress(events.Interrupting())
        progress(events.Warned("careful", "slow down"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split("  ")[0] for line in captured.err.splitlines()] == [
        "step 1/9",
        "step 9/9",
        "step 9: held-out loss 2.2500 over 16 batches",
        "step 9: saved step-9",
        "going on after step 4, from step-4",
        "no checkpoint yet: starting from the beginning",
        "interrupted: finishing this step and saving (once more to stop at once)",
        "warning: careful (slow down)",
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_a_terminal_gets_a_bar(capsys, width):
    output = Output()
    output.notes = Console(
        stderr=True, force_terminal=True, width=width, _environ={"TERM": "xterm"}
    )
    with TrainingProgress(output) as progress, StageProgress(Output()):
        progress(stepped(1))
    assert "step 1/9" not in capsys.readouterr().err


def test_doctor_names_what_makes_numbers_unsteady():
    gpu = Gpu(name="H100", total_bytes=100, free_bytes=60, used_bytes=40, driver="570")
    place = Environment(
        subopt="0", torch="2", python="3", platform="Linux", device="cpu", threads=1
    )
    assert concerns(place, None) == []
    on_cpu, crowded = concerns(place, gpu)
    assert "H100" in on_cpu
    assert "40 B of the GPU's memory" in crowded
    calm = gpu.model_copy(update={"used_bytes": 1})
    assert concerns(place.model_copy(update={"device": "cuda:0"}), calm) == []


def test_doctor_prints_the_environment(subopt):
    ended = subopt("doctor", "--device", "cpu")
    assert ended.status == 0
    assert {"subopt", "torch", "python", "platform", "device", "gpu"} <= set(ended.out.split())
