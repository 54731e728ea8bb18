"""Windows of equal length, cut from packed documents, in an order that seed and epoch decide.

Every epoch goes through all shards once, in a new order; the documents follow each other with a separator between
them, and windows are cut from what results. Blocks of about 262,000 tokens, from as many places of the data as they
have shards, are shuffled once more. So neighbours within a shard (64 KiB of text, 64 rows, or a row group) remain near
each other in time, and are rarely in one batch. Up to a window's length of tokens is left over at an epoch's end.

Position is a few numbers: the first document of the block and the window in it. Going on from there reads one block
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from subopt.errors import FileFormatError, PreflightError

from .corpus import Corpus
from .tokenizer import Tokenizer, Tokens

BLOCK_TOKENS = 2**18
# Documents that are tokenised at once: enough for all cores, few enough to be held.
_GROUP_DOCUMENTS = 64
_GROUP_CHARACTERS = 2**18


class Cursor(NamedTuple):
    """A place among the tokens of an epoch: the shard's place in its order, the document in it, the token in that."""

    shard: int = 0
    document: int = 0
    token: int = 0


_STATE = ("seed", "epoch", *Cursor._fields, "window")


class TokenReader:
    """The tokens of a corpus, its shards in a given order, from a place on."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        order: NDArray[np.int64],
        start: Cursor = Cursor(),  # noqa: B008 (immutable)
    ) -> None:
        self._corpus, self._tokenizer, self._order = corpus, tokenizer, order
        self.cursor = start
        self._tokens: Tokens = np.empty(0, np.int32)
        self._encoded = self._encode_from(start)

    def take(self, count: int) -> Tokens:
        """Return the next tokens: as many as asked for, or those that are left."""
        parts = []
        while count > 0:
            used = self.cursor.token
            if used >= len(self._tokens):
                following = next(self._encoded, None)
                if following is None:
                    break
                self.cursor, self._tokens = following
                continue
            part = self._tokens[used : used + count]
            parts.append(part)
            count -= len(part)
            self.cursor = self.cursor._replace(token=used + len(part))
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def _encode_from(self, start: Cursor) -> Iterator[tuple[Cursor, Tokens]]:
        """Yield every document's tokens and its beginning; the first one's cursor is `start` itself."""
        end = np.array([self._tokenizer.separator], np.int32)
        for place in range(start.shard, len(self._order)):
            skipped = start.document if place == start.shard else 0
            documents = islice(self._corpus.documents(int(self._order[place])), skipped, None)
            number = skipped
            for texts in _groups(documents):
                for tokens in self._tokenizer.encode(texts):
                    at = Cursor(place, number)
                    first = start if at[:2] == start[:2] else at
                    yield first, np.concatenate((tokens, end))
                    number += 1


class ShuffledWindows:
    """Endless windows of a corpus; window k depends on the seed and k alone.

    A window has `length` tokens. Without `shuffle` every epoch has the files' own order.
    """

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, length: int, seed: int, *, shuffle: bool
    ) -> None:
        self._corpus, self._tokenizer, self._length = corpus, tokenizer, length
        self._shuffle = shuffle
        self._go_to(seed, 0, Cursor(), 0)

    def take(self, count: int) -> NDArray[np.int32]:
        """Return the next windows, of shape (count, length).

        Raises:
            PreflightError: All documents together are shorter than one window.
            FileFormatError: A file is not what it should be.
        """
        parts = []
        while count > 0:
            if self._used == len(self._block):
                self._read_block()
            part = self._block[self._used : self._used + count]
            parts.append(part)
            self._used += len(part)
            count -= len(part)
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, int]:
        """Return where the next window comes from: six integers."""
        numbers = (self._seed, self._epoch, *self._block_start, self._used)
        return dict(zip(_STATE, numbers, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the window that a saved state was taken before.

        Raises:
            FileFormatError: There is no such place.
        """
        numbers: list[Any] = [state.get(name) for name in _STATE]
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise _no_such_place()
        seed, epoch, *start, used = numbers
        self._go_to(seed, epoch, Cursor(*start), used)

    def _go_to(self, seed: int, epoch: int, start: Cursor, used: int) -> None:
        self._seed = seed
        self._begin_epoch(epoch, start)
        self._block_start = start
        self._block: NDArray[np.int32] = np.empty((0, self._length), np.int32)
        self._used = 0
        if used:
            self._read_block()
            self._used = used
        if not 0 <= used <= len(self._block) or self._epoch != epoch:
            raise _no_such_place()

    def _begin_epoch(self, epoch: int, start: Cursor = Cursor()) -> None:  # noqa: B008 (immutable)
        self._epoch = epoch
        order = np.arange(len(self._corpus))
        if self._shuffle:
            order = np.random.default_rng([self._seed, epoch]).permutation(order)
        self._reader = TokenReader(self._corpus, self._tokenizer, order, start)

    def _read_block(self) -> None:
        """Put the next block in the place of the one that is used up, going on to the next epoch where one ends."""
        most = max(1, BLOCK_TOKENS // self._length)
        start = self._reader.cursor
        tokens = self._reader.take(most * self._length)
        windows = len(tokens) // self._length
        if windows == 0:
            if start == Cursor():
                raise PreflightError(
                    f"the training files hold {len(tokens)} tokens, fewer than one window of {self._length}",
                    "name more files in data.files.train, or set a smaller data.files.sequence_length",
                )
            self._begin_epoch(self._epoch + 1)
            self._read_block()
            return
        self._block = tokens[: windows * self._length].reshape(windows, self._length)
        if self._shuffle:
            generator = np.random.default_rng([self._seed, self._epoch, *start])
            self._block = self._block[generator.permutation(windows)]
        self._block_start, self._used = start, 0


def _no_such_place() -> FileFormatError:
    return FileFormatError("the checkpoint's place is not in the training files")


def _groups(documents: Iterator[str]) -> Iterator[list[str]]:
    """Put documents together for tokenising; a long one makes a group of its own."""
    group: list[str] = []
    characters = 0
    for text in documents:
        group.append(text)
        characters += len(text)
        if len(group) == _GROUP_DOCUMENTS or characters >= _GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group
