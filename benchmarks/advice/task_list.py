"""The tasks, and which half of them no constant may be fitted to.

The halves were written down before the first run. Whoever fits a constant of the advice looks at `dev` alone.

The last four of `dev` were added on 1 December 2026, after the runs of the others and before any of their own: the
half had no partial differential equation, no recommender, no recurrent and no plain convolutional net, and a law fitted
to it knew nothing of these. Equations, models and data are others than those that are held out, and models, sizes and
lengths were written down before it was known which method or rate is best on them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .methods import SEARCHES, neighbour

Half = Literal["dev", "held_out"]
Kind = Literal["language", "vision", "sequence", "table", "pde", "graph", "recommender"]
TASK_FILES = Path(__file__).resolve().parent / "tasks"


@dataclass(frozen=True)
class Task:
    """A model with its data, and the length of its runs.

    Attributes:
        half: `dev`: constants of the advice may be fitted to it; `held_out`: never.
        kind: The family.
        file: The model file in `tasks/`, of the form that a user writes.
        batch_size: Examples of a step.
        steps: Steps of AdamW; other methods get as many as fit into the same time.
        kwargs: Arguments of `build_model`.
        width: Features of most hidden layers.
        depth: Hidden layers or blocks.
        fine_tunes: Whether the weights come from a checkpoint.
    """

    half: Half
    kind: Kind
    file: str
    batch_size: int
    steps: int
    width: int
    depth: int
    kwargs: dict[str, int | str] = field(default_factory=dict)
    fine_tunes: bool = False

    @property
    def path(self) -> Path:
        """The model file."""
        return TASK_FILES / self.file


TASKS = {
    "gpt": Task("dev", "language", "language_model.py", 8, 250, 64, 2),
    "gpt_torch_init": Task(
        "dev", "language", "language_model.py", 4, 250, 128, 2,
        {"width": 128, "initialisation": "torch"},
    ),
    "gpt_finetune": Task(
        "dev", "language", "finetuned_language_model.py", 8, 200, 64, 2, fine_tunes=True
    ),
    "addition": Task("dev", "sequence", "addition.py", 32, 400, 64, 2),
    "vit": Task("dev", "vision", "vision_transformer.py", 32, 300, 64, 2),
    "autoencoder": Task("dev", "vision", "autoencoder.py", 64, 700, 128, 6),
    "table": Task("dev", "table", "table.py", 64, 600, 96, 5),
    "graph": Task("dev", "graph", "graph.py", 64, 400, 96, 2),
    "burgers": Task("dev", "pde", "burgers.py", 96, 500, 64, 4),
    "two_towers": Task("dev", "recommender", "two_towers.py", 256, 600, 48, 2),
    "sensor_lstm": Task("dev", "sequence", "sensor_lstm.py", 48, 300, 64, 1),
    "plain_convnet": Task("dev", "vision", "plain_convnet.py", 64, 400, 48, 5),
    "gru": Task("held_out", "language", "gru_language_model.py", 4, 300, 64, 1),
    "gpt_small_batch": Task(
        "held_out", "language", "language_model.py", 2, 300, 48, 4, {"width": 48, "depth": 4}
    ),
    "text_classifier": Task("held_out", "language", "text_classifier.py", 8, 250, 48, 2),
    "convnet": Task("held_out", "vision", "convnet.py", 16, 350, 48, 2),
    "denoiser": Task("held_out", "vision", "denoiser.py", 8, 350, 24, 3),
    "digits_finetune": Task(
        "held_out", "vision", "finetuned_digits.py", 32, 200, 48, 2, fine_tunes=True
    ),
    "poisson": Task("held_out", "pde", "poisson.py", 64, 400, 48, 3),
    "recommender": Task("held_out", "recommender", "recommender.py", 512, 600, 64, 3),
}  # fmt: skip


def start_of(method: str, task: str) -> float:
    """Return the rate that the search of a method begins with; fine-tuning begins a decade lower."""
    return neighbour(SEARCHES[method].start, -2 if TASKS[task].fine_tunes else 0)
