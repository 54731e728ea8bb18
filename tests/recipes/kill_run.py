"""Train, kill, resume, compare: `python kill_run.py RECIPE KILLS SEED` ends with status 0 if every comparison holds.

One uninterrupted training is the reference. Then child processes train the same recipe and are killed with SIGKILL
at random instants, each one resuming what the last one left, until there were KILLS kills; every training that
comes to its end must have the reference's weights, bit for bit. A child is forked from this process, so that the
instants fall into training and saving and not into importing torch.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

torch.set_num_threads(1)

from subopt.recipes.recipe.load import load_recipe  # noqa: E402
from subopt.recipes.training.events import Started  # noqa: E402
from subopt.recipes.training.trainer import train  # noqa: E402


def main(recipe_path: Path, kills: int, seed: int) -> int:
    rng = random.Random(seed)
    folder = recipe_path.parent
    session(recipe_path, folder / "warm-up", [])
    times: list[float] = []
    began = time.perf_counter()
    session(recipe_path, folder / "reference", times)
    set_up_s, whole_s = times[0] - began, time.perf_counter() - began
    expected = weights(folder / "reference")

    done, finished, in_training = 0, 0, 0
    # On a busy machine even many kills may all come before the first checkpoint.
    while (
        not (is_enough := done >= kills and (in_training > 0 or done >= 10 * kills))
        or finished == 0
    ):
        output = folder / f"killed-{finished}"
        # A few steps per session, so that one training is killed many times. A fork's start takes up to twice as
        # long: it copies the memory that a collection touches.
        latest_s = 2 * set_up_s + 0.1 * (whole_s - set_up_s)
        delay_s = None if is_enough else rng.uniform(0, latest_s)
        if killed(recipe_path, output, delay_s):
            done += 1
            in_training += any((output / "checkpoints").glob("step-*"))
            continue
        if weights(output) != expected:
            sys.stdout.write(f"the training of {output} ended with other weights\n")
            return 1
        finished += 1
    sys.stdout.write(f"{done} kills, {in_training} with a checkpoint behind, {finished} finished\n")
    return 0 if in_training else 1


def weights(output: Path) -> dict[str, tuple[torch.dtype, bytes]]:
    """The final weights bit for bit. Not the file's bytes: safetensors writes its metadata in no fixed order."""
    tensors = load_file(output / "model.safetensors")
    return {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in tensors.items()}


def session(recipe_path: Path, output: Path, started: list[float]) -> None:
    def on_event(event):
        if isinstance(event, Started):
            started.append(time.perf_counter())

    recipe = load_recipe(recipe_path)
    train(
        recipe, recipe_path=recipe_path, output=output, resume=True, device="cpu", on_event=on_event
    )


def killed(recipe_path: Path, output: Path, delay_s: float | None) -> bool:
    """Run one session in a child and kill it after a delay; return whether it was killed before its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            session(recipe_path, output, [])
            status = 0
        finally:
            os._exit(status)
    if delay_s is not None:
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"a session failed after {delay_s} s")
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
