"""The model on disk: checkpoints, the best weights, and the final ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from subopt.errors import NonFiniteLossError
from subopt.optimizers import get_method

from ..run_folder.best import Best, discard_best, load_best, save_best
from ..run_folder.checkpoint import RunProgress, save_checkpoint
from ..run_folder.disk import disk_full_as_error
from ..run_folder.weights import all_finite, save_weights
from .evaluation import HeldOutLoss
from .events import OnEvent, Saved, Warned
from .session import TrainingSession


class Checkpointer:
    """Saves the model of a session, and tells of every checkpoint.

    Attributes:
        newest: The newest checkpoint, or None.
        best: Where the run was best so far, or None where nobody asked or nothing was evaluated.
    """

    def __init__(self, session: TrainingSession, on_event: OnEvent) -> None:
        self._session = session
        self._on_event = on_event
        self._folder = session.folder
        self.newest: Path | None = session.checkpoint
        self.best: Best | None = None

    def go_on(self, step: int, *, is_same_run: bool) -> None:
        """Go on with what an earlier session saved.

        Weights that were best after the checkpoint stay: the same steps come again. In another run, as --force may make
        it, they do not.
        """
        if not self._session.recipe.checkpoint.best:
            return
        self.best = load_best(self._folder.best)
        if self.best is not None and self.best.step > step and not is_same_run:
            were = f"the best weights were of step {self.best.step}"
            self._on_event(Warned(f"{were}, after the checkpoint of step {step}: dropped"))
            discard_best(self._folder.best)
            self.best = None

    def save(self, progress: RunProgress, data: dict[str, Any]) -> None:
        """Write a checkpoint, unless this step has one or there is no step yet; `data` is the batches' state.

        Raises:
            NonFiniteLossError: A weight is NaN or infinite.
            DiskFullError: It does not fit on the disk.
        """
        step = progress.step
        if step == 0 or (self.newest is not None and self.newest.name == f"step-{step}"):
            return
        session = self._session
        if not all_finite(session.model):
            raise self.non_finite(f"the weights became NaN or infinite by step {step}")
        self.newest = save_checkpoint(
            self._folder.checkpoints,
            session.model,
            session.optimizer,
            data,
            progress,
            keep=session.recipe.checkpoint.keep,
        )
        self._on_event(Saved(step, self.newest))

    def save_if_best(self, step: int, found: HeldOutLoss) -> None:
        """Save the weights if the recipe asks for the best ones and the held-out loss was never lower.

        Losses of other held-out data, as of another `eval.batches`, cannot be compared: then it begins anew.
        """
        if not self._session.recipe.checkpoint.best:
            return
        if self.best is not None and self.best.eval_tokens not in {None, found.tokens}:
            self._on_event(
                Warned(
                    f"the best weights, of step {self.best.step}, were chosen on {self.best.eval_tokens:,} held-out "
                    f"tokens, and now there are {found.tokens:,}: the search for the best begins again at step {step}",
                    "leave eval.batches as it was, to compare with what came before",
                )
            )
            self.best = None
        if self.best is None or found.loss < self.best.eval_loss:
            self.best = Best(step, found.loss, found.tokens)
            save_best(self._folder.best, self._dense_state(), self.best)

    def save_weights(self) -> None:
        """Write the trained weights for the user's own model: layers that the method replaced in their first form."""
        with disk_full_as_error("the trained weights", self._folder.path):
            save_weights(self._dense_state(), self._folder.weights)

    def non_finite(self, what: str) -> NonFiniteLossError:
        """Return the error of a run that left the finite numbers, with what there is to go back to."""
        lower = f"try optimizer.lr={self._session.recipe.optimizer.lr / 3:.2g} or a longer warm-up"
        last = f"the last good checkpoint is {self.newest}" if self.newest else "none was saved yet"
        return NonFiniteLossError(what, f"{last}; {lower}")

    def _dense_state(self) -> dict[str, Tensor]:
        method = get_method(self._session.recipe.optimizer.method)
        return method.dense_state_dict(self._session.model)
