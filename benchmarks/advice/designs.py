"""Designs of a race: those that were compared on the `dev` half, and the best of each budget."""

from .races import Design

EARLY = ((0.02, 2), (0.05, 1))  # within the warm-up, which is a tenth of a run

COMPARED = {
    "rates at 2 and 5 %": Design(1, EARLY),
    "the same, half a decade lower": Design(1, EARLY, lowered=1),
    "the same, one move": Design(1, EARLY, moves=1, lowered=1),
    "rates at 10 and 20 %": Design(1, ((0.1, 2), (0.2, 1))),
    "two rates at 5 %, lower, one at 20 %": Design(
        1, ((0.05, 2),), ((0.2, 1),), moves=1, lowered=1
    ),
    "2 methods: rates at 2 and 5 %, methods at 30 %": Design(2, EARLY, ((0.3, 1),)),
    "2 methods: the same, lower": Design(2, EARLY, ((0.3, 1),), moves=1, lowered=1),
    "2 methods: two rates at 5 %, lower, one at 20 %": Design(
        2, ((0.05, 2),), ((0.2, 1),), moves=1, lowered=1
    ),
    "2 methods: two rates at 5 %, lower, two at 20 %, one at 50 %": Design(
        2, ((0.05, 2),), ((0.2, 2), (0.5, 1)), moves=1, lowered=1
    ),
    "3 methods: two rates at 5 %, lower, two at 20 %, one at 50 %": Design(
        3, ((0.05, 2),), ((0.2, 2), (0.5, 1)), moves=1, lowered=1
    ),
    "4 methods: rates at 2 and 5 %, methods at 30 %": Design(4, EARLY, ((0.3, 1),)),
    "4 methods: the same, lower": Design(4, EARLY, ((0.3, 1),), moves=1, lowered=1),
}

# By the training that may be spent on runs which do not win, in whole runs.
CHOSEN = {
    "a tenth of a run": COMPARED["the same, one move"],
    "half a run": COMPARED["two rates at 5 %, lower, one at 20 %"],
    "one and a half runs": COMPARED["2 methods: two rates at 5 %, lower, two at 20 %, one at 50 %"],
}
