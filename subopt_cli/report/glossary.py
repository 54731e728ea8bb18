"""What the words of the report mean, with the papers they are from."""

from __future__ import annotations

from .parts import Definition

ADADIAG = (
    "Nguyen et al. 2025, Improving Adaptive Moment Optimization via Preconditioner Diagonalization"
)
OSD = "Liang et al. 2024, Memory-Efficient LLM Training with Online Subspace Descent"
GALORE = "Zhao et al. 2024, GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection"
SHARED = (
    "Yen et al. 2023, Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization"
)
SOAP = "Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam"
SHAMPOO = "Gupta et al. 2018, Shampoo: Preconditioned Stochastic Tensor Optimization"
ADAMW = "Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization"
NOISE_SCALE = "McCandlish et al. 2018, An Empirical Model of Large-Batch Training"
DLRT = "Hnatiuk et al. 2024, Stochastic Aspects of Dynamical Low-Rank Approximation in the Context of Machine Learning"

_MEANINGS = {
    "Energy": "The sum of squares of a gradient's entries, which is that of its singular values.",
    "Short side": "The smaller side m of a layer's m x n matrix: the most directions a gradient can have.",
    "Effective rank": "The exponential of the entropy of the energy over the directions: m if all matter alike.",
    "Stable rank": "All energy over that of the strongest direction.",
    "Rank at 95 %": "The fewest leading directions that together hold 95 % of the energy.",
    "Low-rank method": "Keeps its moments for the gradient's r leading directions only, found anew by SVD now and "
    "then.",
    "Online PCA": "Follows those directions by a small step at every training step instead of a decomposition.",
    "Frozen, followed": "A basis kept as it was fitted, or moved along by online PCA, judged on later gradients.",
    "Refresh period": "Training steps between two decompositions; all layers at once make one long step, layers taking "
    "turns do not.",
    "Second moment": "C, the mean of g g^T over gradients g written as vectors. Adam keeps its diagonal alone.",
    "Diagonal share": "How much of C's squared norm lies on its diagonal. A rotation leaves the norm alone and moves "
    "the diagonal.",
    "One side, two sides": "Coordinates along the left, or left and right, singular vectors of a gradient.",
    "Covariance's basis": "Coordinates along the eigenvectors of the accumulated G G^T and G^T G, as Shampoo and SOAP "
    "have them.",
    "Pure noise": "What random gradients of that size would give: a share near it says nothing about the model.",
    "Off-diagonal entries": "C_ij of randomly chosen pairs of weights: how far C is from a diagonal matrix.",
    "Agreement": "Cosine between the step with C's diagonal in a basis and the step with the full C^(-1/2).",
    "Signal": "The part of a batch's gradient that all batches have in common.",
    "Blocks, shared basis": "A block of C for each neuron's weights, all of them kept in one basis of rank k.",
    "Layers as U S V^T": "Weights kept in factors whose rank adapts while training (dlrt in the method table).",
    "Peak, phases": "The highest memory of a training step: in forward, backward, optimizer step, or a step that "
    "refreshes bases.",
    "Simulated, measured": "Followed on tensors without storage, or read off the device. A simulated peak is an "
    "interval.",
    "FLOPs, bound": "The papers' limit on what a rotation adds to a step's arithmetic; 'here' is all of it as used.",
    "Fallback": "The optimizer of the parameters a method leaves alone: embeddings, output head, norms, biases.",
}
_SOURCES = {
    "Low-rank method": GALORE,
    "Online PCA": OSD,
    "Second moment": ADAMW,
    "Diagonal share": ADADIAG,
    "One side, two sides": ADADIAG,
    "Covariance's basis": f"{SHAMPOO}; {SOAP}",
    "Off-diagonal entries": ADADIAG,
    "Signal": NOISE_SCALE,
    "Blocks, shared basis": SHARED,
    "Layers as U S V^T": DLRT,
    "FLOPs, bound": ADADIAG,
}
DEFINITIONS = [
    Definition(term, meaning, _SOURCES.get(term, "")) for term, meaning in _MEANINGS.items()
]
