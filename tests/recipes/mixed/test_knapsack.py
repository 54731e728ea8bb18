"""The knapsack against every possible choice, its bound, and what must not change its answer."""

import itertools
import random

import pytest

from subopt.recipes.mixed import knapsack
from subopt.recipes.mixed.knapsack import leanest, pack
from subopt.recipes.mixed.knapsack_bound import Choice, upper_bound


def random_items(rng, count, choices, *, limits=(60, 80, 10**6), largest=40):
    return [
        [
            Choice(
                rng.randint(0, largest), rng.choice([rng.uniform(-1, 1), 0.0]), rng.choice(limits)
            )
            for _ in range(rng.randint(1, choices))
        ]
        for _ in range(count)
    ]


def within(items, budget):
    """The same items where no choices may take more than `budget`."""
    return [
        [c._replace(limit_bytes=min(c.limit_bytes, budget)) for c in choices] for choices in items
    ]


def totals(items, picks):
    chosen = [choices[i] for choices, i in zip(items, picks, strict=True)]
    return (
        sum(c.bytes for c in chosen),
        sum(c.value for c in chosen),
        min(c.limit_bytes for c in chosen),
    )


def brute_force(items):
    """The best value of all choices within the limits; None where there are none."""
    values = [
        value
        for picks in itertools.product(*(range(len(choices)) for choices in items))
        for used, value, limit in [totals(items, picks)]
        if used <= limit
    ]
    return max(values, default=None)


@pytest.mark.parametrize("seed", range(150))
def test_it_finds_what_trying_everything_finds(seed):
    rng = random.Random(seed)
    items = within(random_items(rng, rng.randint(1, 6), 5), rng.randint(10, 130))
    found, best = pack(items), brute_force(items)
    if best is None:
        assert found is None
        assert upper_bound(items) is None
        return
    used, value, limit = totals(items, found.picks)
    assert found.value == pytest.approx(best, abs=1e-12)
    assert (used, value) == (found.bytes, pytest.approx(found.value, abs=1e-12))
    assert used <= limit
    assert found.is_exact
    assert found.value - 1e-12 <= found.bound <= upper_bound(items) + 1e-12


@pytest.mark.parametrize("seed", range(30))
def test_thinned_states_still_fit_and_stay_under_the_bound(seed, monkeypatch):
    monkeypatch.setattr(knapsack, "MOST_STATES", 1 + seed % 8)
    rng = random.Random(seed)
    items = within(random_items(rng, 6, 6, largest=10**6, limits=(10**9,)), 3 * 10**6)
    found, best = pack(items), brute_force(items)
    if best is None:
        assert found is None
        return
    used, value, limit = totals(items, found.picks)
    assert used <= limit
    assert value == pytest.approx(found.value)
    assert found.value <= best + 1e-12 <= found.bound + 2e-12


def test_thinning_is_told(monkeypatch):
    rng = random.Random(1)
    items = within(random_items(rng, 7, 6, largest=10**6, limits=(10**9,)), 3 * 10**6)
    assert pack(items).is_exact
    monkeypatch.setattr(knapsack, "MOST_STATES", 2)
    thinned = pack(items)
    assert not thinned.is_exact
    assert thinned.bound > thinned.value


@pytest.mark.parametrize("seed", range(20))
def test_a_larger_budget_is_worth_no_less(seed):
    items = random_items(random.Random(seed), 8, 6)
    found = [pack(within(items, budget)) for budget in range(0, 340, 17)]
    values = [packing.value for packing in found if packing is not None]
    assert found[: len(found) - len(values)] == [None] * (len(found) - len(values))
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(values))
    bounds = [
        bound for b in range(0, 340, 17) if (bound := upper_bound(within(items, b))) is not None
    ]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(bounds))


def test_one_choice_each_is_taken_if_it_fits():
    items = [[Choice(5, -1.0, 10)], [Choice(5, 2.0, 10)]]
    assert pack(items).picks == (0, 0)
    assert pack(items).value == 1.0
    assert pack([*items, [Choice(1, 9.0, 10)]]) is None


def test_a_choice_with_a_lower_limit_is_left_where_the_others_take_too_much():
    thirsty = Choice(0, 1.0, 10)
    assert pack([
        [thirsty, Choice(0, 0.5, 100)],
        [Choice(20, 3.0, 100), Choice(0, 0.0, 100)],
    ]).picks == (1, 0)
    assert pack([
        [thirsty, Choice(0, 0.5, 100)],
        [Choice(20, 0.3, 100), Choice(0, 0.0, 100)],
    ]).picks == (0, 1)


def test_hundreds_of_items_of_real_sizes_are_packed_close_to_the_bound():
    rng = random.Random(5)
    items = [
        [Choice(size * k, rng.uniform(0, 0.1) * size / 1e9, 2 * 10**9) for k in range(20)]
        for size in (rng.randint(10**5, 10**7) for _ in range(120))
    ]
    found = pack(items)
    assert found.bytes <= 2 * 10**9
    assert found.value >= 0.999 * upper_bound(items)


def test_the_leanest_are_the_smallest_and_of_equals_the_more_valuable():
    items = [[Choice(3, 9.0, 1), Choice(2, 0.0, 1), Choice(2, 0.5, 1)], [Choice(7, 0.0, 1)]]
    assert leanest(items) == (2, 0)
