"""The check of the advice: how rates are searched, what policies choose on made-up curves, and what is made of it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARES = (0.02, 0.05, 0.1, 0.3, 1.0)
STEPS = 1000


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the benchmark's modules; they find their neighbours as they do when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"advice", "render"}]:
        monkeypatch.delitem(sys.modules, name)
    from advice import (
        lengths,
        methods,
        outcomes,
        policies,
        prefixes,
        races,
        runs,
        score,
        step_times,
        task_list,
    )

    return SimpleNamespace(
        lengths=lengths, methods=methods, outcomes=outcomes, policies=policies, prefixes=prefixes, races=races,
        runs=runs, score=score, step_times=step_times, task_list=task_list,
    )  # fmt: skip


def row(task, method, lr, curve, *, status="done", seed=0, steps=STEPS):
    """Return a run with these held-out losses at SHARES."""
    points = [list(point) for point in zip(SHARES, curve, strict=False)]
    loss = curve[-1] if status == "done" else None
    return {
        "task": task, "method": method, "lr": lr, "seed": seed, "steps": steps, "status": status,
        "first_loss": 8.0, "loss": loss, "curve": points,
    }  # fmt: skip


def walk(methods, loss, start=1e-2):
    losses: dict[float, float] = {}
    while (lr := methods.next_rate(losses, start)) is not None:
        losses[lr] = loss(lr)
    return losses


@pytest.mark.parametrize("best", [1e-5, 3e-4, 1e-2, 3e-2, 1.0])
def test_the_search_walks_to_the_best_rate_and_tries_both_its_neighbours(bench, best):
    losses = walk(bench.methods, lambda lr: abs(math.log10(lr / best)))
    assert bench.methods.best_rate(losses) == best
    assert {bench.methods.neighbour(best, -1), bench.methods.neighbour(best, 1)} <= set(losses)


def test_a_search_that_diverges_goes_down_and_one_that_always_does_ends(bench):
    losses = walk(bench.methods, lambda lr: math.inf if lr > 1e-4 else 1.0 + lr)
    assert bench.methods.best_rate(losses) == 1e-6
    assert 3e-2 not in losses
    assert bench.methods.best_rate(walk(bench.methods, lambda lr: math.inf)) is None


def test_rates_stand_on_one_grid_whoever_names_them(bench):
    assert bench.methods.neighbour(3e-3 / 10, 0) == 3e-4
    assert bench.methods.neighbour(1e-2, 3) == 3e-1


def test_every_run_of_a_task_takes_the_same_time(bench):
    task = bench.task_list.TASKS["gpt"]
    assert bench.step_times.steps_of(task, 1.0) == task.steps
    assert bench.step_times.steps_of(task, 2.5) == round(task.steps / 2.5)


def test_both_halves_have_each_family(bench):
    halves = {
        half: [task for task in bench.task_list.TASKS.values() if task.half == half]
        for half in ("dev", "held_out")
    }
    assert {half: len(own) for half, own in halves.items()} == {"dev": 12, "held_out": 8}
    kinds = {half: {task.kind for task in own} for half, own in halves.items()}
    assert kinds["held_out"] <= kinds["dev"]
    for own in halves.values():
        assert any(task.fine_tunes for task in own)
        assert all(task.path.is_file() for task in own)


def test_the_search_begins_with_every_task_of_either_half(bench):
    first = next(iter(bench.methods.SEARCHES))
    begun = [
        task for task, method, _, seed in bench.runs.wanted([]) if (method, seed) == (first, 0)
    ]
    assert sorted(begun) == sorted(bench.task_list.TASKS)


def test_what_twice_the_steps_are_worth(bench, tmp_path):
    """Twice the loss of a table with half the steps, three times with a third; perplexity for a language model."""
    full = [row("table", "adamw", lr, (loss,)) for lr, loss in ((1e-3, 2.0), (3e-3, 1.0))]
    full += [row("gpt", "adamw", 1e-3, (2.0,))]
    steps = bench.task_list.TASKS["table"].steps
    shorter = [
        row("table", "adamw", 3e-3, (2.0,), steps=steps // 2),
        row("table", "adamw", 1e-2, (9.0,), steps=steps // 2),
        row("table", "adamw", 3e-3, (3.0,), steps=steps // 3),
        row("gpt", "adamw", 1e-3, (2.0 + math.log(2),), steps=125),
    ]
    for name, rows in (("full", full), ("shorter", shorter)):
        (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = list(bench.lengths.gains_by_doubling(tmp_path / "full", tmp_path / "shorter"))
    gains = [gain for _, gain in found]
    assert [one["task"] for one, _ in found] == ["table", "table", "gpt"]
    assert gains == pytest.approx([0.5, 0.5, 0.5])


def test_a_rung_is_never_within_the_first_steps(bench):
    (task,) = bench.outcomes.outcomes([row("gpt", "soap", 0.01, (5, 4, 3, 2, 1), steps=200)])
    assert task.at(("soap", 0.01), 0.02) == (4, 0.05)  # 10 of 200 steps
    assert task.at(("soap", 0.01), 0.3) == (2, 0.3)


def test_a_run_that_diverged_counts_as_one_that_learned_nothing(bench):
    rows = [
        row("gpt", "soap", 0.01, (5, 4), status="diverged"),
        row("gpt", "adamw", 0.01, (5, 4, 3, 2, 2.0)),
    ]
    (task,) = bench.outcomes.outcomes(rows)
    assert task.at(("soap", 0.01), 0.05) == (4, 0.05)
    assert task.at(("soap", 0.01), 0.1)[0] == math.inf
    assert task.loss(("soap", 0.01)) == 8.0
    assert task.tuned("soap") is None
    assert task.loss(("lion", 1e-3)) == 8.0
    assert task.missing == {("lion", 1e-3)}


def three_rates(method, at_two, at_five, at_end):
    """Return runs at 1e-3, 3e-3 and 1e-2 with these losses at 2 %, 5 % and the end."""
    return [
        row("gpt", method, lr, (two, five, five, five, end))
        for lr, two, five, end in zip((1e-3, 3e-3, 1e-2), at_two, at_five, at_end, strict=True)
    ]


def test_a_race_drops_the_worst_rate_first_and_pays_for_what_it_dropped(bench):
    rows = three_rates("soap", (7, 5, 6), (9, 4, 3), (1, 2, 0.5))
    (task,) = bench.outcomes.outcomes(rows)
    design = bench.races.Design(1, ((0.02, 2), (0.05, 1)))
    choice = bench.races.race(task, [("soap", 3e-3)], design)
    assert choice.run == ("soap", 1e-2)  # 1e-3 is best at the end, and was dropped at 2 %
    assert choice.cost == pytest.approx(0.02 + 0.05)


def test_a_race_moves_outwards_while_the_best_is_at_the_edge_as_often_as_it_may(bench):
    rows = three_rates("soap", (7, 6, 5), (7, 6, 5), (7, 6, 5))
    rows.append(row("gpt", "soap", 3e-2, (4, 4, 4, 4, 4)))
    rows.append(row("gpt", "soap", 1e-1, (3, 3, 3, 3, 3)))
    (task,) = bench.outcomes.outcomes(rows)
    for moves, best in ((0, 1e-2), (1, 3e-2), (2, 1e-1)):
        design = bench.races.Design(1, ((0.02, 1),), moves=moves)
        choice = bench.races.race(task, [("soap", 3e-3)], design)
        assert choice.run == ("soap", best)
        assert choice.cost == pytest.approx(0.02 * (2 + moves))


def test_what_leads_early_may_be_lowered_before_it_goes_on(bench):
    rows = three_rates("soap", (7, 6, 5), (7, 6, 5), (7, 6, 5))
    (task,) = bench.outcomes.outcomes(rows)
    design = bench.races.Design(1, ((0.05, 1),), moves=0, lowered=1)
    choice = bench.races.race(task, [("soap", 3e-3)], design)
    assert choice.run == ("soap", 3e-3)
    assert choice.cost == pytest.approx(2 * 0.05)


def test_methods_are_compared_at_their_own_rung_each_at_its_best_rate(bench):
    rows = three_rates("soap", (7, 5, 6), (7, 5, 6), (7, 5, 6))
    rows += three_rates("adamw", (3, 4, 5), (3, 4, 5), (6, 7, 8))
    for one in rows:
        if one["method"] == "adamw":
            one["curve"][3][1] = 6.5  # behind SOAP's 5 at 30 %, though ahead before
    (task,) = bench.outcomes.outcomes(rows)
    design = bench.races.Design(2, ((0.02, 1),), ((0.3, 1),), moves=0)
    choice = bench.races.race(task, [("soap", 3e-3), ("adamw", 3e-3)], design)
    assert choice.run == ("soap", 3e-3)
    assert choice.cost == pytest.approx(4 * 0.02 + 0.3)


def two_tasks(bench):
    return bench.outcomes.outcomes([
        row("gpt", "adamw", 0.01, (5, 4, 3, 2, 1.0)),
        row("gpt", "soap", 0.01, (5, 4, 3, 2, 2.0)),
        row("gru", "adamw", 0.01, (5, 4, 3, 2, 4.0)),
        row("gru", "soap", 0.01, (5, 4, 3, 2, 1.0)),
    ])


def test_the_best_constant_of_a_task_is_chosen_without_looking_at_it(bench):
    gpt, gru = two_tasks(bench)
    (choice,) = bench.policies.best_constant_rate(gpt, [gru])
    assert choice.run == ("soap", 0.01)
    (choice,) = bench.policies.best_constant_rate(gru, [gpt])
    assert choice.run == ("adamw", 0.01)
    (choice,) = bench.policies.best_constant_method(gru, [gpt])
    assert choice.run[0] == "adamw"


def test_a_score_is_how_far_behind_the_best_run_and_behind_tuned_adamw(bench):
    tasks = two_tasks(bench)
    policy = bench.policies.Policy(
        "soap", lambda task, others: bench.policies.constant(("soap", 0.01), task, others)
    )
    found = bench.score.scores(policy, tasks)
    assert found["gpt"].regret == found["gpt"].behind_adamw == pytest.approx(math.log(2))
    assert found["gru"].regret == 0
    assert found["gru"].behind_adamw == pytest.approx(-math.log(4))
    whole = bench.score.summary(found, tasks, None)
    assert (whole.mean, whole.worst) == pytest.approx((math.log(2) / 2, math.log(2)))
    assert bench.score.summary(found, tasks, "held_out").worst_behind_adamw < 0


def test_a_policy_is_given_the_other_tasks_and_not_the_one_that_it_decides(bench):
    tasks = two_tasks(bench)
    seen = {}

    def decide(task, others):
        seen[task.task] = [other.task for other in others]
        return [task.choice(("soap", 0.01))]

    bench.score.scores(bench.policies.Policy("any", decide), tasks)
    assert seen == {"gpt": ["gru"], "gru": ["gpt"]}


def test_a_search_costs_the_runs_of_its_walk_but_one_and_no_others(bench):
    rows = [
        row("gpt", "soap", lr, (5, 4, 3, 2, end)) for lr, end in ((3e-3, 2), (1e-2, 1), (3e-2, 2))
    ]
    rows.append(row("gpt", "soap", 1e-4, (5, 4, 3, 2, 7)))  # another policy asked for it
    (task,) = bench.outcomes.outcomes(rows)
    (choice,) = bench.policies.tuned("soap", task, [])
    assert (choice.run, choice.cost) == (("soap", 1e-2), 2.0)


def test_a_recipe_is_judged_as_it_was_written_the_last_one_if_there_are_several(bench):
    rows = [row("gpt", "adamw", 0.01, (5, 4, 3, 2, 1.0))]
    recipes = [row("gpt", "soap", 0.02, (5, 4, 3, 2, loss)) for loss in (4.0, 2.0)]
    (task,) = bench.outcomes.outcomes(rows, recipes)
    (choice,) = bench.policies.as_written(task, [])
    assert (choice.run, choice.loss, choice.cost) == (("soap", 0.02), 2.0, 0.0)
    assert task.tuned("soap") is None  # no run of the search


def test_what_a_share_tells_is_how_often_its_leader_leads_at_the_end(bench):
    rows = three_rates("soap", (7, 5, 6), (7, 6, 5), (3, 2, 1))
    tasks = bench.outcomes.outcomes(rows)
    early = bench.prefixes.rates_told(tasks, 0.02)
    assert (early.right, early.regret) == pytest.approx((0.0, math.log(2)))
    assert bench.prefixes.rates_told(tasks, 0.05).right == 1.0


def test_rates_of_each_method_are_raced_alone_against_its_own_best(bench):
    rows = three_rates("soap", (7, 5, 6), (7, 5, 6), (3, 2, 1))
    rows += three_rates("adamw", (7, 5, 6), (7, 5, 6), (3, 2, 4))
    tasks = bench.outcomes.outcomes(rows)
    design = bench.races.Design(1, ((0.02, 1),), moves=0)
    told = bench.prefixes.rates_raced(tasks, lambda method, task: 3e-3, design)
    assert told.cases == 2  # methods without runs are left out
    assert (told.right, told.regret) == pytest.approx((0.5, math.log(2) / 2))
    assert not tasks[0].missing


def test_runs_are_wanted_until_each_walk_has_ended_then_second_seeds(bench):
    rows, order = [], []
    for _ in range(2000):
        found = next(bench.runs.wanted(rows), None)
        if found is None:
            break
        task, method, lr, seed = found
        order.append(found)
        rows.append(row(task, method, lr, (abs(math.log10(lr)) + 1,) * 5, seed=seed))
    assert found is None
    tasks, methods = bench.task_list.TASKS, bench.methods.SEARCHES
    assert sum(seed == 1 for *_, seed in order) == len(tasks) * len(methods)
    first = list(dict.fromkeys(task for task, *_ in order))[:2]
    assert [tasks[name].half for name in first] == ["dev", "held_out"]
    assert len(order) == len(set(order))
