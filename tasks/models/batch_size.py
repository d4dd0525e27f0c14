"""How many clips a device takes at once: found by a short trial on the longest of them, before training."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed, nn

from tasks.models.collation import Collator
from tasks.models.processes import agreed, say
from tasks.store import read_json, write_json

EFFECTIVE = 16  # clips a step where a recipe says no more than `auto`: the original project's 2 x 8
ON_CPU = 16  # at most; a trial by the clock would make no two runs alike
SMALLEST = 8  # where a trial begins
WORTH_IT = 1.02  # a larger batch must be faster by this factor, or the smaller one is taken
MEMORY_SHARE = 0.95  # of a device that a trial may fill: fragments of memory come on top in a long run


class Batches(NamedTuple):
    """What a recipe says about batches: clips that a step sees over all devices, and whether a trial shares them out."""

    a_step: int | None
    trial: bool

    @classmethod
    def of(cls, training: Mapping[str, Any], batch_size: int | None) -> "Batches":
        """`training.per_device_train_batch_size` auto or null asks for a trial."""
        trial = training.get("per_device_train_batch_size", 0) in ("auto", None)
        return cls(EFFECTIVE if trial and batch_size is None else batch_size, trial)


class TooLarge(Exception):
    """A batch that does not fit the device."""


def candidates(most: int) -> list[int]:
    """Sizes that are tried for a step of `most` clips on one device, rising from SMALLEST: divisors, so that accumulated
    batches are all alike, each at least half as large again as the one before."""
    found: list[int] = []
    for size in divisors(most):
        if size >= min(SMALLEST, most) and (not found or size >= 1.5 * found[-1] or size == most):
            found.append(size)
    return found


def divisors(number: int) -> list[int]:
    """All of them, rising."""
    return [size for size in range(1, number + 1) if number % size == 0]


def fastest(most: int, clips_per_s: Callable[[int], float]) -> int:
    """The size of the most clips a second for a step of `most`; of sizes about as fast the smallest.

    `clips_per_s` raises TooLarge for what does not fit, and so does this where not even one clip fits.
    """
    best, best_speed = 0, 0.0
    for size in candidates(most):
        try:
            speed = clips_per_s(size)
        except TooLarge:
            break
        if speed > WORTH_IT * best_speed:
            best, best_speed = size, speed
    for size in reversed(divisors(most)) if not best else ():
        if size < candidates(most)[0]:
            try:
                clips_per_s(size)
                return size
            except TooLarge:
                continue
    if not best:
        raise TooLarge
    return best


def share_out(trainer: Any, collate: Collator, batches: Batches, remembered: Path | None = None) -> None:
    """Set the trainer's batch size and its accumulation so that a step sees `batches.a_step` clips on all devices.

    What a trial finds is kept in the file `remembered`: a run that was killed goes on with the batches it had, as long as
    it goes on with as many cards of the same kind. Raises ValueError where the devices do not share them evenly or not
    even one clip fits.
    """
    if batches.a_step is None:
        return
    processes, args = trainer.accelerator.num_processes, trainer.args
    share, left = divmod(batches.a_step, processes)
    if left or not share:
        raise ValueError(f"train.batch_size: {batches.a_step} clips cannot be shared evenly by {processes} devices")
    size = args.per_device_train_batch_size
    if batches.trial:
        size = found_once(trainer, collate, share, remembered)
    if share % size:
        raise ValueError(
            f"train.batch_size: {batches.a_step} clips are no multiple of {processes} x "
            f"training.per_device_train_batch_size = {size}; choose one that is, or say auto"
        )
    args.per_device_train_batch_size = trainer._train_batch_size = size
    args.gradient_accumulation_steps = share // size
    say(f"{size} clips a batch, {share // size} batches a step, {processes} processes")


def found_once(trainer: Any, collate: Collator, share: int, remembered: Path | None) -> int:
    """What a trial found before on the same hardware, or finds now and is remembered."""
    device = trainer.args.device
    card = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    hardware = {"processes": trainer.accelerator.num_processes, "card": card}
    size = agreed(found_before(remembered, hardware))  # or some would be in a trial and wait for the others
    if size is None:
        on_cpu = max(size for size in divisors(share) if size <= ON_CPU)
        size = on_cpu if device.type == "cpu" else by_trial(trainer, collate, share)
    if remembered and trainer.is_world_process_zero():
        remembered.parent.mkdir(parents=True, exist_ok=True)
        aside = remembered.with_suffix(".draft")
        write_json(aside, {"size": size, **hardware})
        aside.replace(remembered)
    return size


def found_before(remembered: Path | None, hardware: Mapping[str, Any]) -> int | None:
    """The size in the file; None where there is none, or where other hardware found it."""
    if not remembered or not remembered.is_file():
        return None
    known = read_json(remembered)
    size = int(known.pop("size"))
    return size if known == hardware else None


def by_trial(trainer: Any, collate: Collator, share: int) -> int:
    """The fastest size for a step of `share` clips on this GPU, and the same on all others."""
    longest = sorted(range(len(collate.tokens_of)), key=lambda i: -collate.tokens_of[i])
    enable_checkpointing(trainer.model, trainer.args)

    def clips_per_s(size: int) -> float:
        speed = torch.tensor(trial(trainer, collate([{"row": longest[k % len(longest)]} for k in range(size)])))
        if trainer.accelerator.num_processes > 1:
            slowest = speed.to(trainer.args.device)
            distributed.all_reduce(slowest, op=distributed.ReduceOp.MIN)
            speed = slowest.cpu()
        if not speed:
            raise TooLarge
        say(f"trial: {size} clips a batch, {float(speed):.1f} clips/s")
        return float(speed)

    with nothing_left(trainer):
        try:
            return fastest(share, clips_per_s)
        except TooLarge:
            raise ValueError(too_little(trainer)) from None


def trial(trainer: Any, batch: Mapping[str, Any]) -> float:
    """Clips a second of one batch, forward and backward, the second time on the clock; 0 where it does not fit."""
    device = trainer.args.device
    room = MEMORY_SHARE * memory_limit(device) - optimizer_bytes(trainer.model)
    torch.cuda.reset_peak_memory_stats(device)
    seconds = 0.0
    try:
        trainer.model.train()
        for _ in range(2):
            torch.cuda.synchronize(device)
            begin = time.perf_counter()
            with trainer.accelerator.autocast():
                loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(dict(batch)))
            loss.backward()
            torch.cuda.synchronize(device)
            seconds = time.perf_counter() - begin
            del loss
    except torch.OutOfMemoryError:
        seconds = 0.0
    if not seconds or torch.cuda.max_memory_allocated(device) > room:
        torch.cuda.empty_cache()
        return 0.0
    return float(batch["layout"][0] / seconds)


def memory_limit(device: torch.device) -> float:
    """Bytes of a GPU that this process may use: its share of the card, or less where others use it."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device.index) * total  # it takes no device without a number
    return float(min(allowed, free + torch.cuda.memory_reserved(device)))


def optimizer_bytes(model: nn.Module) -> int:
    """What Adam's two moments will take."""
    return sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def enable_checkpointing(model: nn.Module, args: Any) -> None:
    """As Trainer does when training begins: activations of some layers are computed again on the way back."""
    if args.activation_checkpointing:
        keywords = dict(args.activation_checkpointing_kwargs or {})
        every, offload = keywords.pop("every_n_layers", 1), keywords.pop("offload", False)
        model.activation_checkpointing_enable(keywords or None, every_n_layers=every, offload=offload)


@contextmanager
def nothing_left(trainer: Any) -> Iterator[None]:
    """Whatever was tried inside leaves no gradient, no count, no random number and no peak of memory behind."""
    device = trainer.args.device
    states = torch.get_rng_state(), torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        torch.cuda.set_rng_state(states[1], device)
        trainer.model.zero_grad(set_to_none=True)
        for seen in trainer.seen.values():
            seen.clear()
        trainer.clips, trainer.flops = 0, 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def too_little(trainer: Any) -> str:
    """What to change where not even one clip fits."""
    device = trainer.args.device
    limit, taken = memory_limit(device) / 1e9, torch.cuda.memory_allocated(device) / 1e9
    return (
        f"not even one clip a batch fits into the {limit:.1f} GB of this GPU, {taken:.1f} GB of which the model takes: set "
        "training.gradient_checkpointing=true, scope=language_model and quantization {load_in_4bit: true}, or lora.r=8"
    )
