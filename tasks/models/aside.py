"""What a training that does not ask for it takes off the device: the encoder, and the words that nobody says."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from tasks.models.families import family_of


class Absent(nn.Module):
    """Stands where a part of the model stood that is not asked; says which device the rest is on."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device


@contextlib.contextmanager
def encoder_aside(model: nn.Module) -> Iterator[None]:
    """Inside, encoder and projector are off the device and out of the model, which is given clips that are encoded."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner, parts = plain.model, family_of(plain).PARTS.values()
    kept = {name: inner.get_submodule(name) for name in dict.fromkeys(part.split(".")[1] for part in parts)}
    device = next(inner.language_model.parameters()).device
    for name, part in kept.items():
        part.to("cpu")
        setattr(inner, name, Absent(device))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for name, part in kept.items():
            setattr(inner, name, part)


class FewWords(nn.Module):
    """The rows of a frozen embedding that some tokens have, on its device: of 156,032 a study says a few dozen."""

    def __init__(self, embedding: nn.Module, tokens: Sequence[int]) -> None:
        super().__init__()
        kept = torch.tensor(sorted(set(tokens)), device=embedding.weight.device)
        row = torch.full((len(embedding.weight),), len(kept), dtype=torch.int32, device=kept.device)
        row[kept] = torch.arange(len(kept), dtype=torch.int32, device=kept.device)  # of any other token: out of range
        self.register_buffer("row", row, persistent=False)
        self.register_buffer("weight", embedding.weight.detach()[kept], persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(self.row[ids], self.weight)


@contextlib.contextmanager
def few_words(model: nn.Module, tokens: Sequence[int]) -> Iterator[None]:
    """Inside, the model knows these tokens alone and its embedding is off the device; nothing where that is trained, or
    where the head has the same weights."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner = plain.model.language_model
    whole = inner.embed_tokens
    trained = any(parameter.requires_grad for parameter in whole.parameters())
    if trained or not isinstance(whole, nn.Embedding) or plain.lm_head.weight is whole.weight:
        yield
        return
    device = whole.weight.device
    inner.embed_tokens = FewWords(whole, tokens)
    whole.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        inner.embed_tokens = whole.to(device)
