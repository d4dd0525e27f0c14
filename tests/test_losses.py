"""The focal loss is Lin's formula, the cross-entropy at gamma 0, and its gradient is finite everywhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.functional.losses import token_losses

LOGITS = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 5)) * 3)
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


@given(gamma=st.floats(0.5, 5))
def test_the_focal_loss_is_its_formula(gamma):
    p = LOGITS.softmax(-1)[torch.arange(6), TARGETS]
    expected = -((1 - p) ** gamma) * p.log()
    torch.testing.assert_close(token_losses(LOGITS, TARGETS, gamma=gamma), expected)


def test_at_gamma_0_it_is_the_cross_entropy():
    expected = torch.nn.functional.cross_entropy(LOGITS, TARGETS, reduction="none")
    assert torch.equal(token_losses(LOGITS, TARGETS, gamma=0.0), expected)


def test_easy_tokens_weigh_less_and_classes_as_they_are_weighed():
    hard, easy = token_losses(torch.tensor([[0.0, 0.0], [6.0, 0.0]]), torch.tensor([0, 0]), gamma=2.0)
    plain_hard, plain_easy = token_losses(torch.tensor([[0.0, 0.0], [6.0, 0.0]]), torch.tensor([0, 0]))
    assert easy / hard < 0.01 * plain_easy / plain_hard
    weighted = token_losses(LOGITS, TARGETS, weight=torch.arange(6.0).double())
    torch.testing.assert_close(weighted, torch.arange(6.0).double() * token_losses(LOGITS, TARGETS))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_token_that_is_sure_has_a_finite_gradient(gamma):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    token_losses(logits, torch.tensor([0]), gamma=gamma).sum().backward()
    assert torch.isfinite(logits.grad).all()
