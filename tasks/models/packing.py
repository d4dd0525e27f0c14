"""All rows of a batch as one row of tokens: no padding between them, and the beginning they share computed once.

Every linear layer and norm of the language model then sees no token twice and none for nothing; only attention is told
which tokens belong together. Numbers are those of the padded batch but for the order of sums, and for dropout inside
adapters, whose mask is one for the shared beginning.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention.bias import causal_lower_right

NAME = "earshot_packed"


class Packed(NamedTuple):
    """Rows one behind the other, after the tokens with which all of them begin."""

    ids: torch.Tensor  # (1, tokens)
    positions: torch.Tensor  # (1, tokens), from 0 in every row, which the shared beginning belongs to
    layout: tuple[int, int, int]  # rows, tokens of the longest behind the beginning, tokens of the beginning
    places: torch.Tensor | None  # (tokens behind the beginning,) in the padded (rows * longest); None: all alike


def pack(before: Sequence[int], rows: Sequence[Sequence[int]]) -> Packed:
    """`rows` as they go on behind `before`, which may be empty."""
    lengths = torch.tensor([len(row) for row in rows])
    longest, known = int(lengths.max()), len(before)
    column = torch.arange(longest)
    there = column[None, :] < lengths[:, None]
    places = (torch.arange(len(rows))[:, None] * longest + column)[there]
    positions = torch.cat([torch.arange(known), (known + column).expand(len(rows), -1)[there]])
    ids = torch.tensor([*before, *(token for row in rows for token in row)])
    return Packed(ids[None], positions[None], (len(rows), longest, known), None if there.all() else places)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    layout: tuple[int, int, int],
    places: torch.Tensor | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention over one packed row: (1, heads, tokens, width) -> (1, tokens, heads, width).

    Rows are padded on the right for the product alone: what is causal looks at no padding there.
    """
    rows, longest, known = layout
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast widens the norms of heads

    def apart(states: torch.Tensor) -> torch.Tensor:
        """(rows, heads, longest, width) of what lies behind the beginning."""
        states = states[0, :, known:]
        if places is not None:
            padded = states.new_zeros(states.shape[0], rows * longest, states.shape[2])
            states = padded.index_copy(1, places, states)
        return states.unflatten(1, (rows, longest)).transpose(0, 1)

    def whole(states: torch.Tensor) -> torch.Tensor:
        beginning = states[:, :, :known].expand(rows, -1, -1, -1)
        return torch.cat([beginning, apart(states)], dim=2) if known else apart(states)

    grouped = query.shape[1] != key.shape[1]
    heard = nn.functional.scaled_dot_product_attention(
        apart(query), whole(key), whole(value), attn_mask=causal_lower_right(longest, known + longest),
        dropout_p=dropout, scale=scaling, enable_gqa=grouped,
    )  # fmt: skip
    heard = heard.transpose(1, 2).flatten(0, 1)
    if places is not None:
        heard = heard.index_select(0, places)
    if known:
        beginning = nn.functional.scaled_dot_product_attention(
            query[:, :, :known], key[:, :, :known], value[:, :, :known], is_causal=True, dropout_p=dropout,
            scale=scaling, enable_gqa=grouped,
        )  # fmt: skip
        heard = torch.cat([beginning[0].transpose(0, 1), heard])
    return heard[None], None


@contextlib.contextmanager
def packed_rows(text: nn.Module) -> Iterator[None]:
    """Inside, a language model takes packed rows with their `layout` and `places` and no others."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    config: Any = text.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
