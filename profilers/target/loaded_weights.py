"""Notices that a model takes its weights from an earlier training, while the user's code builds it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


class LoadedWeights:
    """Whether weights were loaded while anything of one target ran.

    What counts is a call of `load_state_dict` of any module, or of a transformers model's `from_pretrained`.
    """

    def __init__(self, *, found: bool = False) -> None:
        self.found = found

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Look out for such calls in what runs inside."""
        with ExitStack() as stack:
            for owner, name in _loaders():
                stack.enter_context(self._noting(owner, name))
            yield

    @contextmanager
    def _noting(self, owner: type, name: str) -> Iterator[None]:
        original = vars(owner)[name]
        is_class_method = isinstance(original, classmethod)
        call: Callable[..., Any] = original.__func__ if is_class_method else original

        @functools.wraps(call)
        def noting(*args: Any, **kwargs: Any) -> Any:
            self.found = True
            return call(*args, **kwargs)

        setattr(owner, name, classmethod(noting) if is_class_method else noting)
        try:
            yield
        finally:
            setattr(owner, name, original)


def _loaders() -> Iterator[tuple[type, str]]:
    """Yield the classes and methods that load weights; transformers' where it was imported by somebody else."""
    yield nn.Module, "load_state_dict"
    modeling = sys.modules.get("transformers.modeling_utils")
    if modeling is not None:
        yield modeling.PreTrainedModel, "from_pretrained"
