"""The search for a method's learning rate and options: Optuna's sampler and successive halving, alike for everyone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from subopt.errors import UsageError
from subopt.optimizers import get_method
from subopt.profilers.record.race import OptionValue, Trial

from .candidates import Candidate
from .trial import PARTS

if TYPE_CHECKING:
    import optuna

# The first trials take these multiples of the rate to start from.
_FIRST_FACTORS = (1.0, 1 / 3, 3.0)

# Where the best rate is at an end of those tried, the next one is this many times further out.
_OUTWARD = 10.0
_LOWEST, _HIGHEST = 1e-9, 100.0  # that a recipe takes, and that moves anything

# Successive halving: a third goes on at each rung. The first rung lies behind the warm-up of a tenth, during which a
# high rate always looks best.
REDUCTION = 3
FIRST_RUNG = 2
_RUNGS = tuple(FIRST_RUNG * REDUCTION**k for k in range(PARTS) if FIRST_RUNG * REDUCTION**k < PARTS)


def require_optuna() -> None:
    """Make sure that Optuna is there.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "a race needs the package optuna, which is not installed",
            "install it with: pip install 'subopt[race]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search:
    """One method's search.

    What is proposed depends on the seed, the method and the trials so far, so that a search whose finished trials are
    told again goes on exactly as it would have.
    """

    def __init__(self, candidate: Candidate, *, seed: int) -> None:
        import optuna

        self._candidate, self._seed = candidate, seed
        self._choices = _choices(candidate)
        self.trials: list[Trial] = []
        self._asked: optuna.trial.Trial | None = None
        self._study = optuna.create_study(
            direction="minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=FIRST_RUNG, reduction_factor=REDUCTION
            ),
        )

    def propose(self) -> tuple[float, dict[str, OptionValue]]:
        """Return the learning rate and the options of the next trial."""
        import optuna

        number = len(self.trials)
        self._study.sampler = optuna.samplers.TPESampler(
            seed=_seed_of(self._seed, self._candidate.method, number),
            n_startup_trials=len(_FIRST_FACTORS),
        )
        fixed, low, high = self._where_next(number)
        if fixed:
            self._study.enqueue_trial(fixed)
        self._asked = self._study.ask()
        lr = self._asked.suggest_float("lr", low, high, log=True)
        return lr, self._options(self._asked)

    def is_hopeless(self, part: int, loss: float) -> bool:
        """Tell the loss of the asked trial after a part of its run; return whether it is not worth going on."""
        if self._asked is None or part not in _RUNGS:
            return False
        self._asked.report(loss, part)
        is_behind = self._asked.should_prune()
        return is_behind and best_of(self.trials) is not None

    def tell(self, trial: Trial) -> None:
        """Record how the asked trial ended."""
        from optuna.trial import TrialState

        if self._asked is None:
            raise RuntimeError("a trial ended that was not asked for")
        if trial.status == "done":
            self._study.tell(self._asked, trial.loss)
        else:
            self._study.tell(self._asked, state=TrialState.PRUNED)
        self._asked = None
        self.trials.append(trial)

    def replay(self, trial: Trial) -> None:
        """Tell a trial of an earlier session, as if it had just been run."""
        self.propose()
        for part, point in enumerate(trial.curve, start=1):
            self.is_hopeless(part, point.loss)
        self.tell(trial)

    def _where_next(self, number: int) -> tuple[dict[str, Any], float, float]:
        """Return what is fixed of the next trial, and the range of rates.

        First the multiples of the start. Then, while the best rate is the lowest or the highest tried, further out;
        else between its neighbours.
        """
        if number < len(_FIRST_FACTORS):
            lr = min(self._candidate.start_lr * _FIRST_FACTORS[number], _HIGHEST)
            return {"lr": lr, **dict.fromkeys(self._choices, 0)}, lr, lr * _OUTWARD
        tried = sorted({trial.lr for trial in self.trials})
        best = best_of(self.trials)
        at = 0 if best is None else tried.index(best.lr)  # None: all of them diverged
        lower, higher = tried[0] / _OUTWARD, tried[-1] * _OUTWARD
        if at == 0 and lower >= _LOWEST:
            return {"lr": lower}, lower, tried[0]
        if best is not None and at == len(tried) - 1 and higher <= _HIGHEST:
            return {"lr": higher}, tried[-1], higher
        return {}, tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)]

    def _options(self, asked: optuna.trial.Trial) -> dict[str, OptionValue]:
        options = dict(self._candidate.options)
        for name, values in self._choices.items():
            index = asked.suggest_categorical(name, list(range(len(values))))
            if index:
                options[name] = values[index]
        return options


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the trial of the lowest final loss, the first of equal ones; None where none was run to its end."""
    done = [trial for trial in trials if trial.status == "done"]
    return min(done, key=lambda trial: trial.loss if trial.loss is not None else 0.0, default=None)


def _choices(candidate: Candidate) -> Mapping[str, list[OptionValue]]:
    """Return the values to try of each searched option; the first is the candidate's own."""
    method = get_method(candidate.method)
    resolved = method.resolve(candidate.options)
    found = {}
    for name, values in method.searched.items():
        own = _plain(resolved[name])
        found[name] = [own, *(value for value in map(_plain, values) if value != own)]
    return found


def _plain(value: Any) -> OptionValue:
    return list(value) if isinstance(value, tuple) else value


def _seed_of(seed: int, method: str, number: int) -> int:
    text = f"{seed}:{method}:{number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
