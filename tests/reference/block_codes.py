"""8-bit blocks and Adam on them, as Dettmers et al. 2022, section 2, describe them: float64, NumPy.

One thing differs from the paper: a second moment that is not zero is not stored as zero.
"""

import numpy as np


def levels(signed):
    """Dynamic tree quantisation: a decade, then a linear fraction with the bits that are left.

    The smallest decade of the seven has 1 fraction (2 without a sign), each larger one twice as many; a fraction
    stands for the middle of its share of [0.1, 1]. Zero and one are levels of their own.
    """
    found = [0.0, 1.0]
    for decade in range(7):
        fractions = 2**decade * (1 if signed else 2)
        for i in range(fractions):
            level = 10.0 ** (decade - 6) * (0.1 + 0.9 * (i + 0.5) / fractions)
            found += [level, -level] if signed else [level]
    return np.array(sorted(found))


def stored(values, signed, block=256):
    """What is left of values that were kept: their block's largest magnitude times the nearest level."""
    rows = []
    for row in values.reshape(-1, block):
        candidates = np.abs(row).max() * levels(signed)
        distance = np.abs(row[:, None] - candidates[None, :])
        if not signed:
            distance[row > 0, 0] = np.inf
        rows.append(candidates[distance.argmin(1)])
    return np.array(rows).reshape(values.shape)


class Adam:
    """Adam whose moments are kept in 8 bits between steps; a step uses them before they are rounded."""

    def __init__(self, shape, betas=(0.9, 0.999), eps=1e-8):
        self.M, self.V, self.t = np.zeros(shape), np.zeros(shape), 0
        self.betas, self.eps = betas, eps

    def step(self, G):
        self.t += 1
        beta1, beta2 = self.betas
        M = beta1 * self.M + (1 - beta1) * G
        V = beta2 * self.V + (1 - beta2) * G**2
        self.M, self.V = stored(M, signed=True), stored(V, signed=False)
        M_hat, V_hat = M / (1 - beta1**self.t), V / (1 - beta2**self.t)
        return M_hat / (np.sqrt(V_hat) + self.eps)
