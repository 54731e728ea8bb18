"""Preconditioners: updates that see a matrix as it lies in memory, and so live in the identity basis only.

Rows are output neurons and columns their inputs (in * kernel for a convolution).
"""

from __future__ import annotations

from ..updates.update import Update
from .block_adam import BlockAdam
from .preconditioned import Preconditioned
from .shampoo import Shampoo, ShampooOptions
from .shared_basis import SharedBasis, SharedBasisOptions
from .sketchy import Sketchy, SketchyOptions

PRECONDITIONERS: dict[str, Update] = {
    update.name: update
    for update in (
        Preconditioned(name="shampoo", options=ShampooOptions, preconditioner=Shampoo()),
        Preconditioned(name="sketchy", options=SketchyOptions, preconditioner=Sketchy()),
        Preconditioned(
            name="shared-basis", options=SharedBasisOptions, preconditioner=SharedBasis()
        ),
        BlockAdam(),
    )
}
