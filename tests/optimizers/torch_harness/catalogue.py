"""Which methods and properties the harness runs, and where each of PyTorch's own optimizer tests went.

Read by the tests and, as a script's source, by docs/torch_harness_report.py: so it imports nothing beside it.
"""

from __future__ import annotations

import ast
from pathlib import Path

from subopt.optimizers import METHODS

FOLDER = Path(__file__).resolve().parent

# PyTorch's tests hand an optimizer parameters. Methods that put their own layers into a model are tested over a model.
DRIVEN = {name: method for name, method in METHODS.items() if not method.layers}
OVER_MODELS = {name: method for name, method in METHODS.items() if method.layers}


def identifier(name: str) -> str:
    """Return a method's id as a part of a test's name."""
    return name.replace("-", "_").replace("+", "p")


def properties(file: str) -> dict[str, str]:
    """Return the tests of a file with what each says it tests."""
    tree = ast.parse((FOLDER / file).read_text(encoding="utf-8"))
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {t.name: ast.get_docstring(t) or "" for t in tests if t.name.startswith("test_")}


FILES = {
    "test_construction.py": "Constructor and groups",
    "test_stepping.py": "Step",
    "test_tensors.py": "Dtypes and strides",
    "test_hooks_and_copies.py": "Step hooks and copies",
    "test_state_dicts.py": "State dicts",
    "test_memory.py": "Memory",
}
MODEL_FILE = "test_layer_methods.py"

_ERRORS = ("test_errors",)
_ONE_IMPLEMENTATION = "one implementation: `foreach`, `fused` are refused, see `test_errors`"

# PyTorch's test -> ours of the same property.
COUNTERPARTS: dict[str, tuple[str, ...]] = {
    "test_optim_infos_do_not_specify_global_cliquey_kwargs": (
        "test_inputs_leave_implementations_to_the_tests",
    ),
    "test_errors": _ERRORS,
    "test_optimizer_can_be_printed": ("test_can_be_printed",),
    "test_param_groups_lr": ("test_groups_step_like_separate_optimizers",),
    "test_param_groups_weight_decay": ("test_groups_step_like_separate_optimizers",),
    "test_forloop_goes_right_direction": ("test_goes_in_the_right_direction",),
    "test_param_group_with_lrscheduler_goes_right_direction": (
        "test_schedulers_act_by_learning_rate_and_betas_alone",
        "test_nothing_moves_while_a_scheduler_says_zero",
    ),
    "test_tensor_lr": ("test_tensor_lr",),
    "test_step_is_noop_when_params_have_no_grad": ("test_is_noop_without_gradients",),
    "test_step_is_noop_for_zero_grads": ("test_is_noop_for_zero_gradients",),
    "test_grads_are_never_inplaced_into": ("test_gradients_are_only_read",),
    "test_mixed_device_dtype": ("test_dtypes_mix",),
    "test_set_default_dtype_works_with_foreach": ("test_the_default_dtype_does_not_matter",),
    "test_peak_memory_foreach": (
        "test_no_step_takes_more_memory_than_predicted",
        "test_parameters_are_updated_one_after_another",
    ),
    "test_step_pre_hook": ("test_step_hooks", "test_a_pre_hook_may_replace_the_arguments"),
    "test_step_post_hook": ("test_step_hooks",),
    "test_step_all_hooks": ("test_step_hooks",),
    "test_deepcopy_copies_all_public_attrs": ("test_copies_are_complete_and_independent",),
    "test_non_empty_state": ("test_there_is_a_state",),
    "test_state_dict_deterministic": (
        "test_a_loaded_optimizer_goes_on_alike",
        "test_groups_may_change_after_loading",
        "test_the_given_dict_is_left_alone",
    ),
    "test_save_load_equality_with_weights_only": ("test_save_and_load_weights_only",),
    "test_can_load_older_state_dict": ("test_an_older_state_dict_loads",),
    "test_can_load_from_to_named_state_dict": (
        "test_named_and_unnamed_state_dicts_mix",
        "test_named_parameters_step_like_unnamed_ones",
    ),
    "test_load_nontensor_step": ("test_a_state_that_is_no_tensor_is_refused",),
    "test_state_dict_pre_hook": ("test_state_dict_hooks",),
    "test_state_dict_post_hook": ("test_state_dict_hooks",),
    "test_state_dict_pre_post_hook": ("test_state_dict_hooks",),
    "test_load_state_dict_pre_hook_and_prepend": ("test_load_hooks",),
    "test_load_state_dict_post_hook": ("test_load_hooks",),
    "test_load_state_dict_pre_post_hook": ("test_load_hooks",),
}

# PyTorch's test -> why there is none of it here, and what there is instead.
WITHOUT: dict[str, str] = {
    "test_complex": "complex parameters are refused, see `test_errors`",
    "test_complex_2d": "complex parameters are refused, see `test_errors`",
    "test_rosenbrock_sparse": "sparse gradients are refused, see `test_errors`",
    "test_foreach_matches_forloop": _ONE_IMPLEMENTATION,
    "test_foreach_large_tensor": _ONE_IMPLEMENTATION,
    "test_defaults_changed_to_foreach": _ONE_IMPLEMENTATION,
    "test_fused_matches_forloop": _ONE_IMPLEMENTATION,
    "test_fused_cpu_matches_cuda": _ONE_IMPLEMENTATION
    + "; `test_cuda_steps_like_the_cpu` in tests/optimizers/test_contract.py needs a GPU",
    "test_fused_does_not_step_if_foundinf": _ONE_IMPLEMENTATION
    + "; a `GradScaler` is in tests/optimizers/test_contract.py",
    "test_fused_error_on_params_on_meta": _ONE_IMPLEMENTATION
    + "; fake tensors are in tests/optimizers/test_contract.py",
    "test_fused_large_tensor": _ONE_IMPLEMENTATION,
    "test_cpu_load_state_dict": "needs CUDA; in tests/optimizers/state/test_state.py by the meta device",
    "test_state_dict_with_cuda_params": "needs CUDA; in tests/optimizers/state/test_state.py by the meta device",
    "test_forloop_goes_right_direction_multigpu": "needs two GPUs",
    "test_second_order_optims_return_consistent_types": "about LBFGS; what `step` returns is in `test_closures`",
    "test_adamw_serialization": "about torch's AdamW being a subclass of its Adam",
}

# What other classes and helpers of PyTorch's test, in the page's words.
BESIDE = """\
`differentiable` (the class `TestDifferentiableOptimizer`) and `capturable` (an input of many tests) are refused, see
`test_errors`: steps run under `no_grad`, and step counts live on the CPU. Compiled steps are not tested. Tested
elsewhere: parameters of every shape and dtype, predicted against real state bytes, and a checkpoint that resumes bit
for bit across a refresh (tests/optimizers/state/test_state.py); non-finite gradients, `GradScaler` and fake tensors
(tests/optimizers/test_contract.py); the memory of low-rank layers (tests/optimizers/low_rank/test_memory.py)."""
