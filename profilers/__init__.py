"""Measuring a model: plain data, nothing printed, nothing decided.

    record      the file formats                    target      the user's model and data
    gradients   what gradients say                  subspaces   how long a gradient subspace lasts
    memory      peaks of a training step            timing      steps and decompositions on this device
    costs       bytes and FLOPs from shapes         history     earlier runs on this machine
    compare     two profiles                        export      a profile as tables

`profile` runs everything, `preflight` checks a model first, `method_table` puts a row of costs to each method, `device`
describes the GPU, `effort` says how much to measure. `data` and `recompute` are names that exported scripts import.
"""

if __name__ != "subopt.profilers":
    raise ImportError(
        "this folder is the package 'subopt.profilers': install subopt with 'make install' and import that"
    )

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .profile import run_profile
    from .record.profile import Profile
    from .target import load_target

__all__ = ["Profile", "load_target", "run_profile"]

_HOMES = {"Profile": ".record.profile", "load_target": ".target", "run_profile": ".profile"}


def __getattr__(name: str) -> Any:
    # On demand: a command that only reads profiles does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
