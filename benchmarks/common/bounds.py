"""What a method cannot avoid, done alone: its products, on the shapes and in the layout it does them in.

Legend: G m x n gradient with m <= n, the transpose of a tall one; r the rank; 2 a b c FLOPs for a x b by b x c.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from common.contenders import LR
from common.timing import elapsed_ms
from torch import Tensor, nn

Product = tuple[Tensor, Tensor, Tensor]  # two factors, and where their product goes


def wide(matrix: Tensor) -> Tensor:
    """A matrix with its short side first: itself, or a view of its transpose."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def _random(rows: int, columns: int, like: Tensor) -> Tensor:
    return torch.randn(rows, columns, device=like.device)


def projected(G: Tensor, r: int) -> Iterator[Product]:
    """P^T G and P N: 4 m n r."""
    P, n = _random(G.shape[0], r, G), G.shape[1]
    yield P.mT, G, torch.empty(r, n, device=G.device)
    yield P, _random(r, n, G), torch.empty_like(G)


def pca(G: Tensor, r: int) -> Iterator[Product]:
    """An online-PCA step: P^T G, G (P^T G)^T, and four products of m x r and r x r: 4 m n r + 8 m r^2."""
    P, n = _random(G.shape[0], r, G), G.shape[1]
    yield P.mT, G, torch.empty(r, n, device=G.device)
    yield from _followed(G, P)


def _followed(G: Tensor, P: Tensor) -> Iterator[Product]:
    m, r = P.shape
    Y, small = _random(m, r, G), _random(r, r, G)
    yield G, _random(r, G.shape[1], G).mT, Y
    for factor in (P, Y):
        yield P.mT, factor, torch.empty(r, r, device=G.device)
        yield factor, small, torch.empty(m, r, device=G.device)


def tracked(G: Tensor, r: int) -> Iterator[Product]:
    """Online Subspace Descent: P^T G shared by projection and online PCA, and P N: 6 m n r + 8 m r^2."""
    yield from projected(G, r)
    yield from _followed(G, _random(G.shape[0], r, G))


def rotated(G: Tensor, r: int) -> Iterator[Product]:
    """P^T G and P N with all of P: 4 m^2 n."""
    del r
    return projected(G, G.shape[0])


def rotated_both(G: Tensor, r: int) -> Iterator[Product]:
    """P^T G Q and P N Q^T: 4 (m^2 n + m n^2)."""
    yield from rotated(G, r)
    n = G.shape[1]
    Q = _random(n, n, G)
    yield _random(*G.shape, G), Q, torch.empty_like(G)
    yield _random(*G.shape, G), Q.mT, torch.empty_like(G)


def soap(G: Tensor, r: int) -> Iterator[Product]:
    """Both covariances, there and back: 6 (m^2 n + m n^2)."""
    m, n = G.shape
    yield G, G.mT, torch.empty(m, m, device=G.device)
    yield G.mT, G, torch.empty(n, n, device=G.device)
    yield from rotated_both(G, r)


def soap_one_sided(G: Tensor, r: int) -> Iterator[Product]:
    """The short side's covariance, there and back: 6 m^2 n."""
    yield G, G.mT, torch.empty(G.shape[0], G.shape[0], device=G.device)
    yield from rotated(G, r)


@dataclass(frozen=True)
class Bound:
    """What is to be timed alone.

    Attributes:
        of: The method's row that it bounds.
        products: Those of one matrix.
        adam: Shapes of the tensors that its Adam moves, for one matrix; empty where it has none.
    """

    of: str
    products: Callable[[Tensor, int], Iterator[Product]]
    adam: Callable[[int, int, int], Sequence[tuple[int, int]]] = lambda m, n, r: ()


BOUNDS = {
    bound.of: bound
    for bound in (
        Bound("galore", projected, lambda m, n, r: [(r, n)]),
        Bound("osd", tracked, lambda m, n, r: [(r, n), (m, r)]),
        Bound("adadiag", rotated, lambda m, n, r: [(m, n)]),
        Bound("adadiag++", rotated_both, lambda m, n, r: [(m, n)]),
        Bound("soap", soap, lambda m, n, r: [(m, n)]),
        Bound("soap-one-sided", soap_one_sided, lambda m, n, r: [(m, n)]),
    )
}


@dataclass
class Unavoidable:
    """A bound on all matrices, timed in turns with the contenders.

    Attributes:
        bound: What it is.
        gradients: Its own buffers, filled before each turn.
        products: All of them, in the order of the matrices.
        adam: Torch's fused Adam on what the method's Adam moves; None where it has none.
        products_ms: Times of the products.
        adam_ms: Times of the Adam step.
    """

    bound: Bound
    gradients: list[Tensor]
    products: list[Product]
    adam: torch.optim.Optimizer | None
    products_ms: list[float] = field(default_factory=list)
    adam_ms: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, bound: Bound, weights: Sequence[Tensor]) -> "Unavoidable":
        """Build it for weights of these shapes; ranks are a quarter of the short side."""
        gradients = [torch.empty_like(weight) for weight in weights]
        views = [wide(gradient) for gradient in gradients]
        products = [p for G in views for p in bound.products(G, G.shape[0] // 4)]
        shapes = [shape for G in views for shape in bound.adam(*G.shape, G.shape[0] // 4)]
        moved = [nn.Parameter(torch.zeros(shape, device=weights[0].device)) for shape in shapes]
        for parameter in moved:
            parameter.grad = torch.randn_like(parameter)
        adam = torch.optim.AdamW(moved, lr=LR, fused=True) if moved else None
        return cls(bound, gradients, products, adam)

    def step(self, gradients: Sequence[Tensor], index: int) -> None:
        """Do everything once, on copies of these gradients; index 0 is not counted."""
        for own, given in zip(self.gradients, gradients, strict=True):
            own.copy_(given)
        device = gradients[0].device
        products_ms = elapsed_ms(self._multiply, device)
        adam_ms = 0.0
        if self.adam is not None:
            adam_ms = elapsed_ms(self.adam.step, device)
        if index > 0:
            self.products_ms.append(products_ms)
            self.adam_ms.append(adam_ms)

    def _multiply(self) -> None:
        for left, right, product in self.products:
            torch.mm(left, right, out=product)

    def row(self) -> dict[str, Any]:
        """Return everything that was measured."""
        flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in self.products)
        return {
            "of": self.bound.of,
            "gflop": flops / 1e9,
            "products_ms": self.products_ms,
            "adam_ms": self.adam_ms,
        }


@dataclass
class Traffic:
    """What Hfac must read and write: G for its statistics; then G again and W, to write W."""

    weights: list[Tensor]
    products_ms: list[float] = field(default_factory=list)

    def step(self, gradients: Sequence[Tensor], index: int) -> None:
        """Do it once, on copies of these gradients; index 0 is not counted."""
        given = [gradient.clone() for gradient in gradients]

        def pass_over() -> None:
            for weight, gradient in zip(self.weights, given, strict=True):
                torch.dot(gradient.view(-1), gradient.view(-1))  # twice as fast as a norm
                weight.add_(gradient, alpha=-LR)

        taken_ms = elapsed_ms(pass_over, given[0].device)
        if index > 0:
            self.products_ms.append(taken_ms)

    def row(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {"of": "hfac", "gflop": None, "products_ms": self.products_ms, "adam_ms": []}
