"""Batches of windows: endless and resumable ones to train on, and a fixed sequence that is held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subopt.errors import FileFormatError, PreflightError
from subopt.profilers.record.data import Files

from .corpus import open_corpus
from .tokenizer import load_tokenizer
from .windows import ShuffledWindows, TokenReader

Batch = dict[str, Tensor]

# Changes when the same state would no longer give the same windows.
_LAYOUT = "1"


class OpenFiles:
    """A recipe's files with their tokenizer: everything is found and opened, and no text is read yet.

    Relative paths start from `base`.

    Raises:
        UsageError: Nothing matches a pattern, there is no such tokenizer, or a package is missing.
        FileFormatError: A file is not of its format.
        PreflightError: There is nothing to train on.
    """

    def __init__(self, files: Files, base: Path) -> None:
        self.files = files
        self.tokenizer = load_tokenizer(files.tokenizer, files.separator, base)
        self.training, self.held_out = open_corpus(files, base)

    def batches(self, batch_size: int) -> TrainingBatches:
        """Return endless training batches; torch's seed at the time of the call decides their order."""
        return TrainingBatches(self, batch_size, seed=int(torch.randint(2**62, ()).item()))

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out batches in the files' order; the last one may be smaller.

        Raises:
            PreflightError: There are no held-out files, or not one window in them.
        """
        corpus = self.held_out
        if corpus is None:
            raise PreflightError("there is no held-out data", "set data.files.eval")
        length = self.files.sequence_length
        reader = TokenReader(corpus, self.tokenizer, np.arange(len(corpus)))
        tokens = reader.take(batch_size * length)
        if len(tokens) < length:
            raise PreflightError(
                f"the held-out files hold {len(tokens)} tokens, fewer than one window of {length}",
                "name more files in data.files.eval, or set a smaller data.files.sequence_length",
            )
        while windows := len(tokens) // length:
            yield _batch(tokens[: windows * length].reshape(windows, length))
            tokens = reader.take(batch_size * length)

    @cached_property
    def digests(self) -> Tensor:
        """One number for every training file, which changes when the file does."""
        return torch.tensor([file.digest() for file in self.training.files], dtype=torch.int64)

    @cached_property
    def reading(self) -> dict[str, str]:
        """What else the windows depend on."""
        used = ("field", "held_out", "separator", "sequence_length", "shuffle")
        known = {name: str(getattr(self.files, name)) for name in used}
        formats = sorted({file.format for file in self.training.files})
        known["format"] = " ".join(formats)
        return {"layout": _LAYOUT, "tokenizer": self.tokenizer.digest, **known}


class TrainingBatches:
    """Endless batches of `input_ids` and `labels`: the same int64 tokens, of shape (batch size, sequence length).

    Labels are not shifted: Hugging Face models do that. Batch k depends on the seed and k alone. An epoch's last batch
    is filled from the next.
    """

    def __init__(self, opened: OpenFiles, batch_size: int, *, seed: int) -> None:
        self._opened, self._batch_size = opened, batch_size
        self._windows = ShuffledWindows(
            opened.training,
            opened.tokenizer,
            opened.files.sequence_length,
            seed,
            shuffle=opened.files.shuffle,
        )

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            PreflightError: All files together are shorter than one window.
            FileFormatError: A file is not what it should be.
        """
        return _batch(self._windows.take(self._batch_size))

    def state_dict(self) -> dict[str, Any]:
        """Return the position, a number for every file, and what else the batches depend on."""
        opened = self._opened
        return {**self._windows.state_dict(), "files": opened.digests, "reading": opened.reading}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was taken.

        Raises:
            FileFormatError: The files, the tokenizer or how they are read have changed since.
        """
        self._check_same(state)
        self._windows.load_state_dict(state)

    def _check_same(self, state: Mapping[str, Any]) -> None:
        hint = "put back what was there, or start the run over with --force"
        before, reading, now = state.get("files"), state.get("reading"), self._opened.digests
        if not isinstance(before, Tensor) or before.dim() != 1 or not isinstance(reading, Mapping):
            raise FileFormatError("the checkpoint was written with other training data", hint)
        if len(before) != len(now):
            raise FileFormatError(
                f"there are {len(now)} training files, and there were {len(before)} at the checkpoint",
                hint,
            )
        changed = (before != now).nonzero().flatten().tolist()
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            name = self._opened.training.names[changed[0]]
            raise FileFormatError(f"{name}{more} changed since the checkpoint was written", hint)
        for name, value in self._opened.reading.items():
            if reading.get(name) != value:
                raise FileFormatError(
                    f"the training files are read with {name} {value}, and were with "
                    f"{reading.get(name)} when the checkpoint was written",
                    hint,
                )


def _batch(windows: NDArray[np.int32]) -> Batch:
    tokens = torch.from_numpy(windows.astype(np.int64))
    return {"input_ids": tokens, "labels": tokens.clone()}
