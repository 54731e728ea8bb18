"""The method table's preconditioners: updates of whole matrices, in the weights' own coordinates."""

from __future__ import annotations

from .method import ADAM, BAD_BETAS, BAD_PERIOD, record

PRECONDITIONER_METHODS = (
    record(
        "shampoo", "row and column preconditioners of blocks, grafted to RMSProp's step length",
        "Gupta et al. 2018, Shampoo: Preconditioned Stochastic Tensor Optimization", "algorithm 1",
        options={"update": "shampoo", "block_size": 512, "period": 10, "start_step": 101},
        tunable=(
            *ADAM, "basis_dtype", "block_size", "period", "start_step", "graft", "accumulation",
        ),
        state_formula="2(m^2 + n^2) per block + 2mn",
        capabilities=("refreshes", "whitens"),
        test_inputs=(
            {"start_step": 2, "period": 1},
            {"start_step": 1, "period": 2, "block_size": 4},
            {"start_step": 1, "period": 3, "graft": "none", "accumulation": "sum", "betas": (0.0, 0.99)},
            {"start_step": 1, "period": 2, "graft": "sgd", "block_size": 1},
        ),
        error_inputs=(
            BAD_BETAS,
            BAD_PERIOD,
            ({"block_size": 0}, "Invalid block_size"),
            ({"start_step": 0}, "Invalid start_step"),
            ({"graft": "adam"}, "Invalid graft"),
            ({"accumulation": "mean"}, "Invalid accumulation"),
        ),
    ),
    record(
        "sketchy", "Shampoo with low-rank sketches for statistics, by Frequent Directions",
        "Feinberg et al. 2023, Sketchy: Memory-efficient Adaptive Regularization with Frequent Directions", "S-Shampoo",
        options={"update": "sketchy", "rank": 256, "block_size": 1024, "period": 10, "start_step": 101},
        tunable=(
            *ADAM, "basis_dtype", "rank", "block_size", "period", "start_step", "graft", "accumulation",
        ),
        state_formula="(m + n + 2)l + 2 + 2mn, the sketches for every block",
        capabilities=("refreshes", "rank", "whitens"),
        test_inputs=(
            {"start_step": 2, "period": 1},
            {"rank": 2, "start_step": 1, "period": 2, "block_size": 4},
            {"rank": 0.5, "start_step": 1, "period": 3, "graft": "none", "accumulation": "sum", "betas": (0.0, 0.99)},
            {"rank": 1, "start_step": 1, "period": 2, "graft": "sgd"},
        ),
        error_inputs=(
            BAD_BETAS,
            BAD_PERIOD,
            ({"rank": 0}, "Invalid rank"),
            ({"block_size": 0}, "Invalid block_size"),
            ({"start_step": 0}, "Invalid start_step"),
            ({"graft": "adam"}, "Invalid graft"),
            ({"accumulation": "mean"}, "Invalid accumulation"),
        ),
    ),
    record(
        "shared-basis", "a low-rank second moment per output neuron, all in one shared basis",
        "Yen et al. 2023, Block Low-Rank Preconditioner with Shared Basis for Stochastic Optimization",
        "algorithm 1",
        options={"update": "shared-basis", "rank": 32},
        tunable=(*ADAM, "rank", "graft", "ridge"),
        state_formula="kn + mk^2 + m + 2mn, n the inputs",
        capabilities=("rank", "shares_basis", "waits_for_device"),
        test_inputs=(
            {"rank": 2, "ridge": "absolute"},
            {"rank": 0.5, "graft": "none", "betas": (0.0, 0.999)},
            {"graft": "sgd"},
        ),
        error_inputs=(
            BAD_BETAS,
            ({"rank": 1}, "Invalid rank"),
            ({"rank": 0}, "Invalid rank"),
            ({"graft": "adam"}, "Invalid graft"),
        ),
    ),
    record(
        "block-adam", "Adam with a small matrix for every few weights of an output neuron",
        "Yun et al. 2022, AdaBlock: SGD with Practical Block Diagonal Matrix Adaptation",
        "as in Yen et al. 2023, section 3",
        options={"update": "block-adam", "block_size": 8},
        tunable=("betas", "eps", "basis_dtype", "block_size"),
        state_formula="mnb + mn",
        capabilities=("waits_for_device",),
        test_inputs=({}, {"block_size": 3}, {"block_size": 1}),
        error_inputs=(BAD_BETAS, ({"block_size": 2.0}, "Invalid block_size")),
    ),
)  # fmt: skip
