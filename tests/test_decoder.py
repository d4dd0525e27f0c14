"""The decoder answers as Qwen2's own forward, in one piece or going on from what is known of the tokens before."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from tasks.models.decoder import Past, advance, rotations

ROWS, TOKENS = 3, 11


@pytest.fixture(scope="module", params=[4, 2], ids=["as many keys as queries", "grouped queries"])
def text(request):
    config = Qwen2Config(
        vocab_size=50, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=request.param, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Qwen2Model(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return model


@pytest.fixture
def embeddings():
    """(tokens, rows, width)."""
    return torch.randn(TOKENS, ROWS, 48, generator=torch.Generator().manual_seed(2))


def own(text, embeddings):
    """Qwen2's own last hidden state of every row's last token."""
    with torch.inference_mode():
        return text(inputs_embeds=embeddings.transpose(0, 1), use_cache=False).last_hidden_state[:, -1]


def test_the_last_hidden_state_is_qwen2s_own(text, embeddings):
    found, kept = advance(text, embeddings)
    torch.testing.assert_close(found, own(text, embeddings), atol=1e-5, rtol=0)
    assert kept == ([], []), "nothing is kept that was not asked for"


@pytest.mark.parametrize("cuts", [(1,), (4,), (10,), (3, 7)])
def test_in_pieces_it_is_the_same(text, embeddings, cuts):
    past = Past([], [])
    for begin, end in zip((0, *cuts), (*cuts, TOKENS), strict=True):
        assert past.tokens == begin
        found, past = advance(text, embeddings[begin:end], past, keep=True)
    torch.testing.assert_close(found, own(text, embeddings), atol=1e-5, rtol=0)


def test_one_row_of_a_past_may_stand_for_all(text, embeddings):
    alike = embeddings.clone()
    alike[:4] = embeddings[:4, :1]
    _, past = advance(text, alike[:4, :1], keep=True)
    assert past.keys[0].shape[1] == 1
    found, _ = advance(text, alike[4:], past)
    torch.testing.assert_close(found, own(text, alike), atol=1e-5, rtol=0)


def test_a_past_may_be_gone_on_from_more_than_once(text, embeddings):
    _, past = advance(text, embeddings[:6], keep=True)
    first, _ = advance(text, embeddings[6:], past)
    other, _ = advance(text, embeddings[6:].flip(0), past)
    again, _ = advance(text, embeddings[6:], past)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_past_that_is_forgotten_or_of_other_tokens_gives_something_else(text, embeddings):
    _, past = advance(text, embeddings[:6], keep=True)
    _, other = advance(text, embeddings[:6].flip(0), keep=True)
    right, forgotten, wrong = (advance(text, embeddings[6:], known)[0] for known in (past, Past([], []), other))
    assert (right - forgotten).abs().max() > 1e-2
    assert (right - wrong).abs().max() > 1e-2


def test_a_row_does_not_depend_on_the_others(text, embeddings):
    together, _ = advance(text, embeddings)
    for row in range(ROWS):
        alone, _ = advance(text, embeddings[:, row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_a_rotation_by_a_matrix_is_that_of_qwen2(text):
    positions = torch.arange(5, 5 + TOKENS)[None]
    states = torch.randn(1, 4, TOKENS, 12, generator=torch.Generator().manual_seed(3))
    cos, sin = text.rotary_emb(states, positions)
    expected, _ = apply_rotary_pos_emb(states, states, cos, sin)
    found = torch.einsum("bhtw,twv->bhtv", states, rotations(cos[0], sin[0]))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - states).abs().max() > 0.1
