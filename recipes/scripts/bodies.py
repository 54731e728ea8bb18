"""The parts of exported scripts that are the same for every recipe: what trains, by framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Body:
    """The `train` of a script, and what it imports beside what every script does."""

    imports: tuple[str, ...]
    code: str


COMMAND_LINE = """

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=STEPS, help="stop after so many")
    parser.add_argument("--output", default="trained.pt", help="where the weights go")
    arguments = parser.parse_args()
    trained = train(arguments.steps)
    torch.save(get_method(METHOD).dense_state_dict(trained), arguments.output)
"""

_LOOP_BEGIN = '''
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def evaluate(model, optimizer, batches):
    """Leave the clipped gradients of the micro-batches in the model; return their mean loss."""
    optimizer.zero_grad()
    losses = []
    for batch in batches:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=PRECISION == "bf16-mixed"):
            loss = target.data.loss(model, batch)
        (loss / ACCUMULATE).backward()
        losses.append(loss.detach())
    if CLIP_NORM is not None:  # asked for anew each time: low-rank layers change their parameters
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    return torch.stack(losses).mean()


def train(steps: int = STEPS) -> torch.nn.Module:
    model = make_model().to(DEVICE)
    optimizer, schedule = make_optimizer(model)
    stream = BatchStream(target.data, BATCH_SIZE, seed=SEED)
    seed_everything(SEED)  # what dropout draws from
    for step in range(1, steps + 1):
        batches = [prepare_batch(next(stream), DEVICE, PRECISION) for _ in range(ACCUMULATE)]
'''

_LOOP_END = """        schedule.step()
        if step % 10 == 0 or step in {1, steps}:
            print(f"step {step}  loss {loss:.4f}")
    return model
"""

_LOOP_PLAIN = """        loss = evaluate(model, optimizer, batches)
        optimizer.step()
"""

_LOOP_CLOSURE = """        loss = optimizer.step(lambda: evaluate(model, optimizer, batches))
"""

_BATCHES = '''
class Batches(IterableDataset):
    """The training batches, each of BATCH_SIZE examples already, without the first ones."""

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip

    def __iter__(self):
        stream = BatchStream(target.data, BATCH_SIZE, seed=SEED)
        for batch in islice(stream, self.skip, None):
            yield {batch}
'''

_LIGHTNING = """

class Module(LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        # Here and not in configure_optimizers: a checkpoint is loaded before that is asked for.
        self.optimizer, self.schedule = make_optimizer(model)

    def training_step(self, batch, index):
        loss = target.data.loss(self.model, batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def train_dataloader(self):  # asked for once the steps of a checkpoint are known
        done = self.trainer.global_step * ACCUMULATE
        return DataLoader(Batches(skip=done), batch_size=None)

    def configure_optimizers(self):
        return {
            "optimizer": self.optimizer,
            "lr_scheduler": {"scheduler": self.schedule, "interval": "step"},
        }


def train(steps: int = STEPS, resume_from: str | None = None) -> torch.nn.Module:
    module = Module(make_model())
    trainer = Trainer(
        max_steps=steps,
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=CLIP_NORM,
        precision=PRECISION,
        devices=1,
        logger=False,
    )
    seed_everything(SEED)  # what dropout draws from
    trainer.fit(module, ckpt_path=resume_from)
    return module.model
"""

_TRAINER = """

class RecipeTrainer(Trainer):
    loss_is_scaled_for_ga = False  # it is the mean of a micro-batch

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=None)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = target.data.loss(model, inputs["batch"])
        return (loss, None) if return_outputs else loss


def has_tied_weights(model) -> bool:
    names = list(model.named_parameters(remove_duplicate=False))
    return len(names) > len(list(model.parameters()))


def train(steps: int = STEPS, resume_from: str | None = None) -> torch.nn.Module:
    model = make_model()
    # A Trainer can write tied weights of its own library's models only, and would fail with the first checkpoint.
    is_saved = isinstance(model, PreTrainedModel) or not has_tied_weights(model)
    settings = TrainingArguments(
        output_dir="trainer",
        max_steps=steps,
        gradient_accumulation_steps=ACCUMULATE,
        max_grad_norm=CLIP_NORM or 0.0,  # 0: no clipping
        bf16=PRECISION == "bf16-mixed",
        logging_steps=10,
        save_strategy="steps" if is_saved else "no",
        report_to=[],
        seed=SEED,
    )
    model.to(settings.device)
    optimizer, schedule = make_optimizer(model)
    trainer = RecipeTrainer(
        model=model,
        args=settings,
        train_dataset=Batches(),
        optimizers=(optimizer, schedule),
    )
    trainer.train(resume_from_checkpoint=resume_from)
    return model
"""

_DATA = ("from itertools import islice", "from torch.utils.data import DataLoader, IterableDataset")
_PLACEMENT = ("from subopt.recipes.placement import prepare_batch",)

BODIES: dict[str, Body] = {
    "loop": Body(_PLACEMENT, _LOOP_BEGIN + _LOOP_PLAIN + _LOOP_END),
    "loop with a closure": Body(_PLACEMENT, _LOOP_BEGIN + _LOOP_CLOSURE + _LOOP_END),
    "lightning": Body(
        (*_DATA, "from lightning import LightningModule, Trainer"),
        _BATCHES.replace("{batch}", "batch") + _LIGHTNING,
    ),
    "trainer": Body(
        (*_DATA, "from transformers import PreTrainedModel, Trainer, TrainingArguments"),
        _BATCHES.replace("{batch}", '{"batch": batch}') + _TRAINER,
    ),
}
