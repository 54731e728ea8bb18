"""A model whose gradients are prescribed: the loss is <W, A> summed over the weights, so that A is the gradient of W.

A batch holds an A for every weight, made from its number in the stream. Batch 0 is looked at before anything runs, the
next STEPS are the short training run, and BATCHES more are measured at fixed weights; those are k = 0, 1, ... below.
What each weight's gradients are, and so what a profile must say of them, stands in the function of its name.
"""

import functools
import math

import torch
from torch import nn

STEPS, BATCHES = 20, 32
FIRST = 1 + STEPS

TWO_SIGNS = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
FOUR_SIGNS = torch.kron(TWO_SIGNS, TWO_SIGNS)

SPECTRA = ([8.0, 4.0, 2.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0, 5.0])
TURNING, STILL, ANGLE = [8.0, 7.8, 7.6, 7.4], [0.5, 0.4, 0.3, 0.2], 0.1
STATIC = [4.0, 3.0, 2.0, 1.0]
# Standard deviations of the 16 independent coordinates, by how far right of the diagonal they are, then by row.
DEVIATIONS = torch.tensor(
    [[4.0, 3.0, 2.0, 1.0], [3.1, 0.9, 1.7, 2.3], [0.5, 1.1, 2.9, 0.7], [1.3, 2.1, 0.6, 0.8]],
    dtype=torch.float64,
)
EIGENVALUES = torch.tensor(
    [[1 / (1 + p) for p in range(16)], [1 / (1 + (3 * p + 5) % 16) for p in range(16)]],
    dtype=torch.float64,
)
SIGNAL, NOISE = [4.0, 3.5, 3.0, 2.5, 2.2, 1.5], 5.0
INPUTS = [9.0, 7.0, 5.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1]
POSITIONS = 40
VARIANCES = torch.linspace(0.2, 3.0, 80, dtype=torch.float64).reshape(8, 10).square()


@functools.cache
def orthogonal(size, seed):
    """A random orthogonal matrix in float64, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(random).Q


def product(left, values, right):
    """The matrix with these singular values and leading columns of two orthogonal matrices for its vectors."""
    s = torch.tensor(values, dtype=torch.float64)
    return left[:, : len(s)] * s @ right[:, : len(s)].T


def spectrum(number):
    """16 x 24 of two spectra in turn, of rank 5, in random directions that are new in every batch."""
    left, right = orthogonal(16, 100 + number), orthogonal(24, 200 + number)
    return (1 + number % 7) * product(left, SPECTRA[number % 2], right)


def drift(number):
    """24 x 16: four of the short side's directions turn by ANGLE per batch, each in a plane of its own; four stay."""
    short, long = orthogonal(16, 1), orthogonal(24, 2)
    angle = ANGLE * number
    turned = math.cos(angle) * short[:, :4] + math.sin(angle) * short[:, 4:8]
    return product(torch.cat([turned, short[:, 8:12]], 1), TURNING + STILL, long).T


def static(number):
    """16 x 16 of rank 4, the same direction always, of changing length."""
    return (1 + number % 3) * product(orthogonal(16, 3), STATIC, orthogonal(16, 4))


def core(k):
    """The rotated layer's gradient in its own coordinates: one of four shifted diagonals, with one of four signs each.

    Over 16 batches every one of the 16 coordinates is excited, and any two of them agree as often as they disagree.
    """
    shift, signs = k // 4 % 4, FOUR_SIGNS[k % 4]
    return torch.roll((signs * DEVIATIONS[shift]).diag(), shift, 1)


def rotated(number):
    """4 x 4: R core S^T. In R's and S's coordinates the covariance is diagonal, in the weight's own it is not."""
    return orthogonal(4, 5) @ core((number - FIRST) % BATCHES) @ orthogonal(4, 6).T


def rows(number):
    """2 x 20: output neurons that never agree; the covariances of both have the same eigenvectors."""
    k = (number - FIRST) % BATCHES
    direction = orthogonal(20, 7)[:, k // 2 % 16]
    return torch.outer(TWO_SIGNS[k % 2] * (16 * EIGENVALUES[:, k // 2 % 16]).sqrt(), direction)


def columns(number):
    """20 x 2: the same for input neurons."""
    return rows(number).T


def signal(number):
    """24 x 40: a signal of rank 6 and, in each batch, one direction of noise, orthogonal to it and to every other."""
    k = (number - FIRST) % BATCHES
    left, right = orthogonal(24, 8), orthogonal(40, 9)
    noise = torch.outer(left[:, 6 + min(k, 16)], right[:, 6 + k])
    return product(left, SIGNAL, right) + NOISE * noise


def random(number):
    """8 x 10: independent Gaussian entries in rotated coordinates, of VARIANCES there."""
    generator = torch.Generator().manual_seed(1000 + number)
    noise = torch.randn(8, 10, generator=generator, dtype=torch.float64)
    return orthogonal(8, 10) @ (VARIANCES.sqrt() * noise) @ orthogonal(10, 11).T


def inputs(number):
    """Inputs of a linear layer, 40 x 12, of known singular values in directions that are new in every batch."""
    return product(orthogonal(40, 300 + number), INPUTS, orthogonal(12, 400 + number))


PRESCRIBED = {
    f.__name__: f for f in (spectrum, drift, static, rotated, rows, columns, signal, random)
}


class Model(nn.Module):
    """A weight for every prescribed gradient, a linear layer, and a vector, which no method treats as a matrix."""

    def __init__(self):
        super().__init__()
        shapes = {name: tuple(gradient(FIRST).shape) for name, gradient in PRESCRIBED.items()}
        self.weights = nn.ParameterDict({
            n: nn.Parameter(torch.zeros(s)) for n, s in shapes.items()
        })
        self.reader = nn.Linear(12, 12, bias=False)
        self.offset = nn.Parameter(torch.zeros(3))

    def forward(self, batch):
        total = sum((self.weights[name] * batch[name]).sum() for name in self.weights)
        # The gradient of the layer's weight is answers^T inputs: with the inputs' own vectors, diag(INPUTS) V^T.
        return total + (self.reader(batch["inputs"]) * batch["answers"]).sum() + self.offset.sum()


def build_model():
    return Model()


def batches(batch_size):
    for number in range(FIRST + BATCHES):
        batch = {name: gradient(number) for name, gradient in PRESCRIBED.items()}
        batch["inputs"] = inputs(number)
        batch["answers"] = orthogonal(POSITIONS, 300 + number)[:, :12]
        yield {name: value.float() for name, value in batch.items()}


def loss(model, batch):
    return model(batch)
