"""The language model over rows of one length, which may go on from what is already known of the tokens before them."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention.bias import causal_lower_right


class Past(NamedTuple):
    """What rows know of the tokens before: every layer's keys and values (tokens, rows, heads, head width); one row may
    stand for all."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    @property
    def tokens(self) -> int:
        """How many tokens there were."""
        return len(self.keys[0]) if self.keys else 0


NOTHING = Past([], [])


@torch.no_grad()
def advance(
    text: nn.Module, embeddings: torch.Tensor, past: Past = NOTHING, *, keep: bool = False
) -> tuple[torch.Tensor, Past]:
    """The final hidden state (rows, width) of every row's last token, and with `keep` what the rows then know.

    `embeddings` (tokens, rows, width): tokens come first, so that one rotation serves a whole slice and keys are
    appended without a copy. The numbers of transformers' own forward but for the order of its sums, in fewer passes over
    memory; the last layer asks for the last tokens only. No gradients.
    """
    tokens, rows, _ = embeddings.shape
    positions = torch.arange(past.tokens, past.tokens + tokens, device=embeddings.device)
    turns = rotations(*(part[0] for part in text.rotary_emb(embeddings, positions[None])))
    hidden, kept = embeddings, Past([], [])
    for index, layer in enumerate(text.layers):
        attention = layer.self_attn
        seen = layer.input_layernorm(hidden)
        new = attention.k_proj(seen)
        key = new.new_empty(past.tokens + tokens, rows, new.shape[-1] // attention.head_dim, attention.head_dim)
        value = torch.empty_like(key)
        if past.tokens:
            key[: past.tokens], value[: past.tokens] = past.keys[index], past.values[index]
        torch.bmm(heads(new, attention, "k_norm"), turns, out=key[past.tokens :].flatten(1, 2))
        value[past.tokens :] = attention.v_proj(seen).view(value[past.tokens :].shape)
        if keep:
            kept.keys.append(key)
            kept.values.append(value)
        if layer is text.layers[-1]:
            hidden, seen, turns = hidden[-1:], seen[-1:], turns[-1:]
        asked = torch.bmm(heads(attention.q_proj(seen), attention, "q_norm"), turns)
        query = asked.view(len(seen), rows, -1, key.shape[-1])
        hidden = hidden + attention.o_proj(attend(query, key, value, attention.scaling))
        hidden = hidden + through(layer.mlp, layer.post_attention_layernorm(hidden))
    return text.norm(hidden[0]), kept


def heads(states: torch.Tensor, attention: nn.Module, norm: str) -> torch.Tensor:
    """(tokens, rows, heads * width) as (tokens, rows * heads, width), through the norm of a head where there is one, as in
    Qwen3."""
    apart = states.view(len(states), -1, attention.head_dim)
    return getattr(attention, norm)(apart) if hasattr(attention, norm) else apart


def through(mlp: nn.Module, seen: torch.Tensor) -> torch.Tensor:
    """What a layer's MLP makes of (tokens, rows, width): a gated one in fewer passes, experts as transformers asks them."""
    if not hasattr(mlp, "gate_proj"):
        made: torch.Tensor = mlp(seen)
        return made
    gated: torch.Tensor = mlp.down_proj(mlp.act_fn(mlp.gate_proj(seen)).mul_(mlp.up_proj(seen)))
    return gated


def rotations(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021) of (tokens, width) cosines and sines, halves against halves as in Qwen2, as
    matrices (tokens, width, width) to multiply row vectors by: one pass over memory, with one rounding."""
    half = cos.shape[1] // 2
    turns = torch.diag_embed(cos)
    turns[:, half:, :half] -= torch.diag_embed(sin[:, :half])
    turns[:, :half, half:] += torch.diag_embed(sin[:, half:])
    return turns


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """(queries, rows, heads * width): every query looks at the keys up to its own; the last query at all of them."""
    heard = nn.functional.scaled_dot_product_attention(
        *(states.permute(1, 2, 0, 3) for states in (query, key, value)),
        attn_mask=causal_lower_right(len(query), len(key)), scale=scale, enable_gqa=query.shape[2] != key.shape[2],
    )  # fmt: skip
    return heard.permute(2, 0, 1, 3).flatten(2)
