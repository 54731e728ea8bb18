"""Asking the Hugging Face hub once whether it answers, before a library asks it for file after file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from subopt.profilers.target.loaded import replaced

_TIMEOUT_S = 10


@contextmanager
def cache_alone_unless_it_answers() -> Iterator[None]:
    """Let what runs inside find cached copies only where the hub does not answer: retrying takes minutes."""
    from huggingface_hub import constants

    settings: Any = constants
    with replaced(settings, "HF_HUB_OFFLINE", not _answers(settings.ENDPOINT)):
        yield


def _answers(address: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=_TIMEOUT_S)
    # of whatever kind the client in use has for no network, a proxy's refusal, or offline mode
    except Exception:
        return False
    return True
