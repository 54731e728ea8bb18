"""Designs of a race: those that were compared on the `dev` half, and the best of each budget."""

from .races import Design

# Both within the warm-up, which is a tenth of a run.
EARLY = ((0.02, 2), (0.05, 1))
UPWARDS = (0, 1)  # the prior's rate and the next higher one: what goes on is lowered

TENTH = Design(1, ((0.02, 1),), moves=0, offsets=(0, 1, 2), lowered=1)
HALF = Design(1, ((0.1, 2),), ((0.3, 1),), moves=1)
MORE = Design(2, ((0.1, 2),), ((0.3, 1),), moves=1)

COMPARED = {
    "3 rates, 2 and 5 %": Design(1, EARLY),
    "3 rates, 2 and 5 %, lowered": Design(1, EARLY, lowered=1),
    "3 rates upwards, 2 %, lowered": TENTH,
    "2 rates, 2 %, lowered": Design(1, ((0.02, 1),), moves=1, offsets=UPWARDS, lowered=1),
    "3 rates, 10 %": Design(1, ((0.1, 1),)),
    "3 rates, 10 and 20 %": Design(1, ((0.1, 2), (0.2, 1))),
    "3 rates, 10 % keeps 2, 30 %": HALF,
    "2 rates, 5 % keeps 2, lowered, 30 %": Design(
        1, ((0.05, 2),), ((0.3, 1),), moves=1, offsets=UPWARDS, lowered=1
    ),
    "2 methods, 3 rates, 2 and 5 %, methods at 30 %": Design(2, EARLY, ((0.3, 1),)),
    "2 methods, 3 rates, 2 and 5 %, lowered, methods at 30 %": Design(
        2, EARLY, ((0.3, 1),), lowered=1
    ),
    "2 methods, 2 rates, 5 % keeps 2, lowered, 30 %": Design(
        2, ((0.05, 2),), ((0.3, 1),), moves=1, offsets=UPWARDS, lowered=1
    ),
    "2 methods, 3 rates, 10 % keeps 2 each, 30 %": MORE,
    "2 methods, 3 rates, 10 % keeps 2 each, 20 % keeps 3, 50 %": Design(
        2, ((0.1, 2),), ((0.2, 3), (0.5, 1)), moves=0
    ),
    "2 methods, 2 rates, 2 and 5 %, lowered, methods at 30 %": Design(
        2, EARLY, ((0.3, 1),), moves=1, offsets=UPWARDS, lowered=1
    ),
    "4 methods, 3 rates, 2 and 5 %, methods at 30 %": Design(4, EARLY, ((0.3, 1),)),
    "4 methods, 3 rates, 2 and 5 %, lowered, methods at 30 %": Design(
        4, EARLY, ((0.3, 1),), lowered=1
    ),
}

# By the training that may be spent on runs which do not win: the lowest mean on `dev` within it.
CHOSEN = {"a tenth of a run": TENTH, "half a run": HALF, "one and a half runs": MORE}
