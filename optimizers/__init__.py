"""The updates, and the one table that describes every method."""

if __name__ != "subopt.optimizers":
    raise ImportError(
        "this folder is the package 'subopt.optimizers': install subopt with 'make install' and import that"
    )

from .create import create
from .fused_backward import FusedBackward
from .low_rank.convert import to_dense, to_two_layers
from .matrices import matrix_shape
from .methods.method import Method
from .methods.registry import METHODS, get_method
from .optimizer import Composed
from .parameters import ParameterRole, parameter_roles, shown_name
from .state.low_bit import stored_bytes

__all__ = [
    "METHODS",
    "Composed",
    "FusedBackward",
    "Method",
    "ParameterRole",
    "create",
    "get_method",
    "matrix_shape",
    "parameter_roles",
    "shown_name",
    "stored_bytes",
    "to_dense",
    "to_two_layers",
]
