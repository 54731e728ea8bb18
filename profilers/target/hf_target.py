"""Targets that start with `hf:`: a Hugging Face architecture from its config.json, with random weights.

Nothing in the config is executed, no pickle is read, and no code is fetched: the model is one that the installed
transformers has. Without `weights=true` not even its weights are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from subopt.errors import PreflightError, SuboptError, TargetError, UserCodeError

from ..record.profile import Target
from .arguments import Scalar
from .builder import Picked, a_type
from .hf_config import in_short, make_config, override, read_config
from .hf_files import PREFIX, check_weights, fetched_weights, locate
from .hf_tasks import Task, pick_task, random_batches, task_arguments
from .loaded import LoadedTarget, replaced
from .loaded_weights import LoadedWeights
from .synthetic import parse_inputs
from .training_data import TrainingData, loss_of_output

# The largest published models have some ten thousand; building more takes minutes before anything is measured.
_MOST_PARAMETERS = 50_000


def load_hf_target(
    spec: str,
    kwargs: Mapping[str, Scalar],
    inputs: Sequence[str],
    folder: Path,
) -> LoadedTarget:
    """Load `hf:PATH` or `hf:ORG/NAME`, as `load_target` does a file.

    Args:
        spec: The target. PATH is a config.json or a folder with one; ORG/NAME is looked for in the local Hugging Face
            cache, then on the hub.
        kwargs: Fields of the config to replace, and `sequence_length` or `image_size`, and `weights`.
        inputs: Descriptions of synthetic inputs; where given, they replace those made from the config.
        folder: What a relative PATH starts from.

    Raises:
        TargetError: There is no such config, it asks for code of its own, or transformers is not installed.
        UsageError: An argument that makes no sense.
    """
    synthetic = parse_inputs(inputs)
    if importlib.util.find_spec("transformers") is None:
        raise TargetError(
            f"{spec} needs the transformers package, which is not installed",
            "pip install 'subopt[hf]'",
        )
    file, is_local = locate(spec.removeprefix(PREFIX), folder)
    content = read_config(file)
    with _quietly():
        config = make_config(content, file)
        task, _ = pick_task(config, file)
        own: dict[str, Scalar | None] = {task.argument: 0}
        if getattr(config, "image_size", None) is not None:
            own.pop("image_size", None)  # a field like any other
        content, values = override(content, config, kwargs, file, {**own, "weights": False})
        config = make_config(content, file)
        task, name = pick_task(config, file)
        given = task_arguments(task, config, values, file)
    weights = None
    if values.get("weights"):
        weights = file.parent if is_local else fetched_weights(spec, file)
        check_weights(weights)
    model = _Architecture(task, name, content, file, given, weights)
    sizes = ", ".join(f"{key} {value}" for key, value in given.items())
    how = "weights of its folder" if weights else "random weights"
    picked = Picked(name, model.build, "architecture", f"{task.name}, {how}, {sizes}")
    code = LibraryCode()
    data = TrainingData(
        spec,
        code,
        model.loss,
        (synthetic or model).batches,
        is_synthetic=True,
        arguments={key: values.pop(key) for key in own if key in values},
        inputs=tuple(inputs),
    )
    record = Target(
        spec=spec,
        kwargs=values,
        file=str(file),
        picked=picked.description,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    loaded = LoadedWeights(found=weights is not None)
    return LoadedTarget(data, code, record, folder, picked, None, loaded)


class LibraryCode:
    """Runs the code of an installed library: nobody's folder is searched for modules."""

    @contextlib.contextmanager
    def running(self, doing: str) -> Iterator[None]:
        """Turn what the library raises into one line; what it prints goes to stderr.

        Raises:
            UserCodeError: It raised.
        """
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except (SuboptError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise UserCodeError(
                f"{doing} failed: {in_short(error)}",
                "run again with --debug for the whole traceback",
            ) from error


@dataclass(frozen=True)
class _Architecture:
    """What the config describes: builds the model, makes its batches, computes its loss.

    `data` is the config's content, overrides included; `given` are sizes of a batch; no `weights` are random ones.
    """

    task: Task
    name: str
    data: Mapping[str, Any]
    file: Path
    given: Mapping[str, Any]
    weights: Path | None

    def build(self, **_: Scalar) -> nn.Module:
        """Return a fresh model in torch's default dtype; the arguments are in the config already.

        Raises:
            TargetError: The config's numbers do not make a model, or one larger than this machine's memory.
        """
        options = {"dtype": torch.get_default_dtype(), "trust_remote_code": False}
        is_fake = torch._guards.detect_fake_mode() is not None
        try:
            with _quietly(), _limited(None if is_fake else _machine_bytes()):
                import transformers

                config = make_config({**self.data, "use_cache": False}, self.file)
                auto = getattr(transformers, self.task.auto_class)
                if self.weights is None or is_fake:
                    model: nn.Module = auto.from_config(config, **options)
                else:
                    model = auto.from_pretrained(
                        self.weights,
                        config=config,
                        use_safetensors=True,
                        local_files_only=True,
                        **options,
                    )
        except SuboptError:
            raise
        except Exception as error:  # any combination of sizes may come from a config
            raise TargetError(
                f"{self.file} describes no {self.name} that can be built: {in_short(error)}",
                "correct its sizes, or the key=value that changed them",
            ) from error
        return model

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Return random batches without end."""
        with _quietly():
            config = make_config(self.data, self.file)
        return random_batches(self.task, config, batch_size, self.given)

    def loss(self, model: nn.Module, batch: Any) -> Any:
        """Return the model's own loss of a batch, its auxiliary terms included."""
        if not isinstance(batch, Mapping) or "labels" not in batch:
            raise PreflightError(
                f"a batch is {a_type(batch)} without labels, and {self.name} computes its loss from them",
                'name every input: --input "input_ids=int64[8,256]<32000" --input "labels=int64[8,256]<32000"',
            )
        with _quietly(), _experts_without_data():
            return loss_of_output(model(**batch))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what transformers imports and does from logging and drawing progress bars: what matters is an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from transformers.utils import logging as its_logging

        bars: Any = its_logging  # which leaves these functions without annotations
        had_bars = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            yield
        finally:
            if had_bars:
                bars.enable_progress_bar()
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _limited(most_bytes: int | None) -> Iterator[None]:
    """Stop building a model that has too many parameters to be one, or more bytes than this machine."""
    count, size = 0, 0

    def add(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        nonlocal count, size
        if parameter is None:
            return
        count, size = count + 1, size + parameter.numel() * parameter.element_size()
        if count > _MOST_PARAMETERS:
            raise TargetError(
                f"the config describes a model of more than {_MOST_PARAMETERS} parameter tensors",
                "lower its number of layers or experts",
            )
        if most_bytes is not None and size > most_bytes:
            raise TargetError(
                f"the model's parameters take more than the {most_bytes / 2**30:.0f} GiB of this machine",
                "follow it without allocating anything: --simulate",
            )

    with registration.register_module_parameter_registration_hook(add):
        yield


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def _experts_without_data() -> contextlib.AbstractContextManager[Any]:
    """Let mixtures of experts run on fake tensors: torch's grouped product can do so in bf16 only.

    Its stand-in in transformers allocates the same.
    """
    if torch._guards.detect_fake_mode() is None:
        return contextlib.nullcontext()
    from transformers.integrations import moe

    return replaced(moe, "_can_use_grouped_mm", lambda *_, **__: False)
