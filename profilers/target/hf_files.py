"""The files of an `hf:` target: a folder of the user's, the local Hugging Face cache, or the hub."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from subopt.errors import TargetError

from .hf_config import in_short

PREFIX = "hf:"
_CONFIG = "config.json"
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_TIMEOUT_S = 10


def locate(place: str, folder: Path) -> tuple[Path, bool]:
    """Return the config file, and whether it is a path of the user's rather than of the hub."""
    path = _existing(place, folder)
    if path is not None and path.is_file():
        if path.suffix != ".json":
            raise TargetError(f"{place} is not a config.json", "name it, or the folder it is in")
        return path.resolve(), True
    if path is not None and path.is_dir():
        if not (path / _CONFIG).is_file():
            raise TargetError(f"the folder {place} has no {_CONFIG}", "name the folder of a model")
        return path.resolve() / _CONFIG, True
    if not _HUB_NAME.fullmatch(place) or ".." in place or place.endswith(".json"):
        raise TargetError(
            f"there is no {place or 'model'} in {folder}",
            "name a folder with a config.json, or a model of the hub: hf:ORG/NAME",
        )
    return _from_hub(place), False


def _existing(place: str, folder: Path) -> Path | None:
    """Return the file or folder of that name, if there is one."""
    try:
        path = folder / Path(place).expanduser()
        return path if place and path.exists() else None
    except (RuntimeError, OSError):  # the home of nobody; a name too long for a path
        return None


def _from_hub(name: str) -> Path:
    """Return the config of a model of the hub, from the local cache where it is there.

    Raises:
        TargetError: It is not in the cache, and cannot be downloaded.
    """
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(name, _CONFIG, local_files_only=True))
        # Asked once first: the download itself would try six times, half a minute long.
        get_session().head(hf_hub_url(name, _CONFIG), timeout=_HUB_TIMEOUT_S)
        return Path(hf_hub_download(name, _CONFIG))
    except (
        Exception
    ) as error:  # network, permissions, a wrong name: many kinds from several libraries
        raise TargetError(
            f"{name} is neither a folder nor in the Hugging Face cache, and cannot be downloaded: {in_short(error)}",
            "check the name; or get its config.json where there is a network, and name its folder: hf:PATH",
        ) from None


def fetched_weights(spec: str, config: Path) -> Path:
    """Return the folder in the cache with the weights that belong to a config of the hub."""
    from huggingface_hub import snapshot_download

    patterns = ["config.json", "*.safetensors", _WEIGHTS_INDEX]
    name, revision = spec.removeprefix(PREFIX), config.parent.name
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # as above
        raise TargetError(
            f"the weights of {name} cannot be downloaded: {in_short(error)}",
            "leave out weights=true for random ones",
        ) from None


def check_weights(folder: Path) -> None:
    """Make sure that a folder's weights are safetensors of its own, whatever else lies in it."""
    if (folder / "adapter_config.json").exists():
        raise TargetError(
            f"{folder} holds an adapter, whose base model is elsewhere",
            "merge the adapter into its model first, or leave out weights=true",
        )
    if (folder / _WEIGHTS).is_file():
        return
    index = folder / _WEIGHTS_INDEX
    if not index.is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        also = (
            f"; {pickles[0]} is a pickle, which can run code, and is never read" if pickles else ""
        )
        raise TargetError(
            f"{folder} has no {_WEIGHTS}{also}",
            "convert the weights to safetensors, or leave out weights=true for random ones",
        )
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        strange = [
            name for name in names if Path(name).name != name or not name.endswith(".safetensors")
        ]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise TargetError(f"{index} is not an index of weights") from None
    if strange:
        raise TargetError(f"{index} names {strange[0]!r}, which is no weight file of its folder")
