"""Which part of a model is trained, by LoRA or whole, and how many parameters that are."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tasks.models.families import family_of


def lora_config(model: nn.Module, lora: Mapping[str, Any], scope: str) -> Any:
    """peft.LoraConfig for a scope: attention of the language model, or of encoder and language model.

    The names q_proj, k_proj, v_proj stand in the encoder too, and all-linear means the projector as well, so leaving these
    out takes an `exclude_modules`.
    """
    from peft import LoraConfig

    keywords = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], **lora, "task_type": "CAUSAL_LM"}
    if scope == "language_model":
        keywords["exclude_modules"] = rf".*({'|'.join(hearing(model))}).*"
    return LoraConfig(**keywords)


def hearing(model: nn.Module) -> list[str]:
    """Where encoder and projector lie in what peft wraps, a part that lies within the other left out."""
    paths = [path.removeprefix("model.") for path in family_of(model).PARTS.values()]
    return [path for path in paths if not any(path != other and path.startswith(f"{other}.") for other in paths)]


def refuse_unknown_targets(model: nn.Module, lora: Mapping[str, Any], scope: str) -> None:
    """Raise ValueError on a name of `target_modules` that no layer in scope has: peft adapts the others, and says nothing
    unless none is left."""
    named = lora.get("target_modules")
    if not isinstance(named, list):  # a pattern, or all-linear
        return
    paths = [path for path, _ in model.named_modules()]
    if scope == "language_model":
        paths = [path for path in paths if part_of(model, f"{path}.") == scope]
    for name in named:
        if not any(f".{path}".endswith(f".{name}") for path in paths):
            last = {path.rpartition(".")[2] for path in paths}
            there = sorted(its for its in last if its.endswith("_proj") or its in ("fc1", "fc2"))
            where = "of this base" if scope != "language_model" else "of this base's language model"
            raise ValueError(f"target_modules: no layer {where} is called {name!r}; there are {', '.join(there)}")


def refuse_beyond(model: nn.Module, scope: str) -> None:
    """Raise ValueError where something that hears would be trained, such as by `bias: all` or `modules_to_save`, which
    `scope` says is frozen."""
    beyond = [name for name, its in model.named_parameters() if its.requires_grad and part_of(model, name) != scope]
    if scope == "language_model" and beyond:
        raise ValueError(
            f"{len(beyond)} parameters of encoder and projector would be trained, such as {beyond[0]}, which "
            "scope=language_model holds frozen; set scope=language_model+encoder, or bias and modules_to_save without them"
        )


def refuse_adapted_experts(model: nn.Module) -> None:
    """Raise ValueError where LoRA stands in an MLP of experts, whose weights are stacked in parameters.

    peft adds to such a parameter as a whole (its `target_parameters`, into which it also turns the names of an MLP): every
    step would hold a second copy of all experts, and each of them gets a matrix of the full rank.
    """
    plain = model.get_base_model()
    for path, mlp in plain.named_modules():
        stacked = any(its.ndim == 3 for name, its in mlp.named_parameters() if "lora_" not in name)
        if path.endswith(".mlp") and stacked and any("lora_" in name for name, _ in mlp.named_parameters()):
            raise ValueError(
                f"{path} of this base holds experts, stacked in parameters: an adapter on them would take a second copy of "
                "all of them in every step, and none is trained there; name q_proj, k_proj, v_proj and o_proj, as "
                "train.lora=attention does"
            )


def unfreeze(model: nn.Module, scope: str) -> nn.Module:
    """The model with every parameter of its scope to be trained: language model and head, or encoder and projector too.

    What a family holds fixed, such as the encoder's sinusoids, stays as it is.
    """
    fixed = tuple(family_of(model).FIXED)
    for name, parameter in model.named_parameters():
        in_scope = scope != "language_model" or part_of(model, name) == "language_model"
        parameter.requires_grad_(in_scope and not name.endswith(fixed))
    return model


def trainable_by_part(model: nn.Module) -> dict[str, int]:
    """Trainable parameters in the encoder, the projector and the language model, and all parameters."""
    parts = {"encoder": 0, "projector": 0, "language_model": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[part_of(model, name)] += parameter.numel()
    return {**parts, "trainable": sum(parts.values()), "all": model.num_parameters()}


def part_of(model: nn.Module, name: str) -> str:
    """Where a parameter stands: in the encoder, in the projector, which may lie within it, or in the language model."""
    paths = family_of(model).PARTS
    return next((part for part in ("projector", "encoder") if f"{paths[part]}." in name), "language_model")
