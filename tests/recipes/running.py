"""Training one recipe several times into folders of its own, for the tests of runs."""

import signal

import torch
from safetensors.torch import load_file

from subopt.recipes.recipe.load import load_recipe, with_settings
from subopt.recipes.training import events
from subopt.recipes.training.trainer import train


class Run:
    """Trains one recipe into folders of its own and keeps the events."""

    def __init__(self, recipe_path):
        self.recipe_path = recipe_path
        self.events = []

    def __call__(self, name, *overrides, interrupt_at=None, by=signal.SIGINT, **keys):
        def on_event(event):
            self.events.append(event)
            if isinstance(event, events.Stepped) and event.step == interrupt_at:
                signal.raise_signal(by)

        recipe = with_settings(load_recipe(self.recipe_path), overrides)
        self.events.clear()
        return train(
            recipe,
            recipe_path=self.recipe_path,
            output=self.recipe_path.parent / name,
            device="cpu",
            on_event=on_event,
            **keys,
        )

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def edit_model(self, old, new):
        path = self.recipe_path.parent / "model.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def same_weights(first, second):
    a, b = load_file(first.weights), load_file(second.weights)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
