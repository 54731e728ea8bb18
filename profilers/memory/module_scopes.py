"""Which module makes a tensor, in the forward and in the backward pass, by hooks that leave the graph as it is.

In the forward pass it is the innermost module that is running. In the backward pass a module counts as running from the
moment autograd reaches the operation that made its output: what is made until it reaches the next module's is filed
under it. That is exact for a module that is one operation and approximate for what lies between two modules, such as a
residual sum, which goes to the module whose backward pass began last.

What a module with children makes by itself is "name|leaf": after which leaf, a module without children, it was made.
After the last leaf of all, whose output the loss is made of, that is the loss, wherever the user's code computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_AFTER = "|"


@dataclass
class PassScopes:
    """What the hooks saw of a forward pass.

    Attributes:
        head: The last leaf to run; "" before any did.
        head_output_bytes: The size of its output.
        output_bytes: The size of each module's last output, by name.
    """

    head: str = ""
    head_output_bytes: int = 0
    output_bytes: dict[str, int] = field(default_factory=dict)

    def is_loss(self, scope: str) -> bool:
        """Whether a scope is what computes the loss from the head's output."""
        return scope.endswith(_AFTER + self.head)


def module_of(scope: str) -> str:
    """Return the name of the module that a scope is."""
    return scope.partition(_AFTER)[0]


@contextmanager
def module_scopes(model: nn.Module, on_scope: Callable[[str], None]) -> Iterator[PassScopes]:
    """Call `on_scope` whenever another module, or another part of one, begins to make tensors, in passes run inside."""
    with ExitStack() as handles:
        yield _Hooks(model, on_scope, handles).passes


class _Hooks:
    def __init__(
        self, model: nn.Module, on_scope: Callable[[str], None], handles: ExitStack
    ) -> None:
        self.passes = PassScopes()
        self._on_scope, self._handles = on_scope, handles
        self._running: list[tuple[str, bool]] = []
        on_scope(_AFTER)
        for name, module in model.named_modules():
            is_leaf = not any(True for _ in module.children())
            self._watch(module, name, is_leaf)

    def _watch(self, module: nn.Module, name: str, is_leaf: bool) -> None:
        def enter(*_: Any) -> None:
            self._running.append((name, is_leaf))
            self._tell()

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            self._running.pop()
            self._note(name, is_leaf, [x for x in tree_leaves(output) if isinstance(x, Tensor)])
            self._tell()

        self._handles.enter_context(module.register_forward_pre_hook(enter))
        self._handles.enter_context(module.register_forward_hook(leave))

    def _note(self, name: str, is_leaf: bool, outputs: list[Tensor]) -> None:
        passes = self.passes
        passes.output_bytes[name] = sum(tensor.nbytes for tensor in outputs)
        if is_leaf:
            passes.head, passes.head_output_bytes = name, passes.output_bytes[name]
        scope = name if is_leaf else name + _AFTER + passes.head
        for tensor in outputs:
            if tensor.grad_fn is not None:
                reached = tensor.grad_fn.register_prehook(lambda _: self._on_scope(scope))
                self._handles.enter_context(reached)

    def _tell(self) -> None:
        name, is_leaf = self._running[-1] if self._running else ("", False)
        self._on_scope(name if is_leaf else name + _AFTER + self.passes.head)
