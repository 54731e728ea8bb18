"""What is known before anything is measured: a portfolio of methods, each with a rate."""

from .methods import SEARCHES
from .outcomes import Run
from .task_list import TASKS

ORDER = ("soap", "adamw", "adafacdiag", "muon", "adadiag++", "lion", "adafactor")


def portfolio_of(task: str) -> list[Run]:
    """Return methods, best first, each at the rate to start from."""
    tenth = 0.1 if TASKS[task].fine_tunes else 1.0
    return [(method, float(f"{SEARCHES[method].start * tenth:.0e}")) for method in ORDER]
