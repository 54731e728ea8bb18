"""The update rules, and the one table that describes every method."""

if __name__ != "subopt.optimizers":
    raise ImportError(
        "this folder is the package 'subopt.optimizers': install subopt with 'make install' and import that"
    )

from .bases import is_refresh_due
from .composed import Composed
from .create import create
from .fused_backward import FusedBackward
from .low_bit import stored_bytes
from .low_rank_model import to_dense, to_two_layers
from .matrices import matrix_shape
from .methods import METHODS, get_method
from .table import Method
from .treatment import Treatment, shown_name, treatments

__all__ = [
    "METHODS",
    "Composed",
    "FusedBackward",
    "Method",
    "Treatment",
    "create",
    "get_method",
    "is_refresh_due",
    "matrix_shape",
    "shown_name",
    "stored_bytes",
    "to_dense",
    "to_two_layers",
    "treatments",
]
