"""From next-token logits to answers: single tokens only, probabilities over all variants of an answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from tasks.functional.decoding import answer_scores, answer_token_ids, answers_token_ids, map_open_answer, open_rules

PIECES = {"A": 32, " A": 362, "B": 33, " B": 425, "SPE": 7, "ECH": 8, " Yes": 9, "C": 5, " C": 5}


class Words:
    """A tokenizer of whole pieces, those of Qwen2 among them."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens, "a special token in front would make every answer two tokens"
        if text in PIECES:
            return [PIECES[text]]
        return [PIECES.get(piece, 0) for piece in (text[:3], text[3:]) if piece]

    def decode(self, ids: list[int]) -> str:
        return next((text for text, token in PIECES.items() if [token] == ids), "?")


def test_an_answer_is_its_bare_and_its_spaced_token():
    assert answer_token_ids(Words(), "A") == [32, 362]
    assert answers_token_ids(Words(), ["A", "B"]) == {"A": [32, 362], "B": [33, 425]}


def test_a_token_that_does_not_decode_to_the_answer_is_not_one_of_its_variants():
    assert answer_token_ids(Words(), "C") == [5], "' C' has the id of 'C' here and reads back as 'C'"
    assert answer_token_ids(Words(), "Yes") == [9]


def test_an_answer_of_two_tokens_is_refused():
    with pytest.raises(ValueError, match=r"'SPEECH' is 2 tokens .* answers are one token"):
        answer_token_ids(Words(), "SPEECH")


def test_two_answers_that_share_a_token_are_refused():
    class Forgetful(Words):
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            self.said = text
            return [1]

        def decode(self, ids: list[int]) -> str:
            return self.said

    with pytest.raises(ValueError, match=r"the answers \['A', 'B'\] share a token"):
        answers_token_ids(Forgetful(), ["A", "B"])


def test_the_tiny_tokenizer_has_the_letters_with_and_without_a_space(processor):
    ids = answers_token_ids(processor.tokenizer, ["A", "B"])
    assert [processor.tokenizer.decode([token]) for token in ids["A"]] == ["A", " A"]
    assert [processor.tokenizer.decode([token]) for token in ids["B"]] == ["B", " B"]
    with pytest.raises(ValueError, match="tokens of this tokenizer; answers are one token"):
        answer_token_ids(processor.tokenizer, "maybe so")


VOCABULARY = 12
IDS = {"A": [2, 7], "B": [3, 11]}
LOGITS = st.lists(st.lists(st.floats(-60, 60), min_size=VOCABULARY, max_size=VOCABULARY), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(LOGITS)
def test_scores_are_sums_of_softmax_over_variants(logits):
    p = softmax(np.array(logits), axis=1)
    a, b = p[:, IDS["A"]].sum(axis=1), p[:, IDS["B"]].sum(axis=1)
    found = answer_scores(np.array(logits), IDS)
    np.testing.assert_allclose(found.answer_mass, a + b, rtol=1e-9)
    log_a, log_b = (logsumexp(np.array(logits)[:, IDS[k]], axis=1) for k in "AB")
    np.testing.assert_allclose(found.p_first, 1 / (1 + np.exp(log_b - log_a)), rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(LOGITS, st.floats(-1e4, 1e4))
def test_a_constant_added_to_all_logits_changes_nothing(logits, shift):
    plain, moved = answer_scores(np.array(logits), IDS), answer_scores(np.array(logits) + shift, IDS)
    np.testing.assert_allclose(moved.p_first, plain.p_first, atol=1e-9)
    np.testing.assert_allclose(moved.answer_mass, plain.answer_mass, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(LOGITS)
def test_the_two_answers_share_one(logits):
    swapped = {"B": IDS["B"], "A": IDS["A"]}
    np.testing.assert_allclose(
        answer_scores(np.array(logits), IDS).p_first + answer_scores(np.array(logits), swapped).p_first, 1, atol=1e-12
    )


def test_variants_are_summed_where_the_likeliest_token_says_the_other_answer():
    logits = np.full((1, VOCABULARY), -50.0)
    logits[0, IDS["A"]] = np.log([0.3, 0.3])
    logits[0, IDS["B"]] = np.log([0.4, 1e-9])
    assert logits.argmax() in IDS["B"]
    assert answer_scores(logits, IDS).p_first[0] == pytest.approx(0.6, abs=1e-6)


def test_a_sure_model_that_answers_neither_keeps_its_decision_and_says_how_little_it_means():
    logits = np.full((1, VOCABULARY), -2000.0)
    logits[0, 0], logits[0, 2], logits[0, 3] = 0.0, -1000.0, -1001.0
    found = answer_scores(logits.astype(np.float32), {"A": [2], "B": [3]})
    assert found.p_first[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert found.answer_mass[0] == 0.0


def test_tokens_that_were_not_allowed_may_be_minus_infinity():
    logits = np.full((1, VOCABULARY), -np.inf)
    logits[0, [2, 3]] = 0.0
    assert answer_scores(logits, IDS) == (pytest.approx([0.5]), pytest.approx([1.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_with_the_row(bad):
    logits = np.zeros((3, VOCABULARY))
    logits[1, [2, 7, 3, 11]] = bad
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(ValueError, match=r"^row 1: the logits of the answers \['A', 'B'\] are not finite"),
    ):
        answer_scores(logits, IDS)


# --- free answers ------------------------------------------------------------------------------------------------


RULES = open_rules(("SPEECH", "NONSPEECH"), ("A", "B"), {"NONSPEECH": ("music",)})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A", "SPEECH"), (" a ", "SPEECH"), ("A)", "SPEECH"), ("(B)", "NONSPEECH"), ("B.", "NONSPEECH"),
        ("A) SPEECH", "SPEECH"), ("B) NONSPEECH (music", "NONSPEECH"), ("It is speech.", "SPEECH"),
        ("NON-SPEECH", "NONSPEECH"), ("non speech", "NONSPEECH"), ("nonspeech", "NONSPEECH"), ("Music!", "NONSPEECH"),
        ("A dog barking", None), ("There is no speech", None), ("This is not music", None), ("speech or music?", None),
        ("The audio does not contain any speech", None), ("I don’t hear speech", None), ("no human speech", None),
        ("This isn't speech", None), ("not noise: human speech", "SPEECH"), ("It cannot be speech", None),
        ("A) NONSPEECH", None), ("", None), ("speeches", None), ("C", None), ("no music but speech", "SPEECH"),
    ],
)  # fmt: skip
def test_a_free_answer_names_a_class_by_the_declared_rules_or_none(text, named):
    assert map_open_answer(text, RULES) == named


def test_words_are_those_of_the_study_and_those_declared_beside_them():
    assert RULES == {"SPEECH": ("A", "SPEECH"), "NONSPEECH": ("B", "NONSPEECH", "music")}
    assert map_open_answer("voice", open_rules(("VOICE", "OTHER"), ("yes", "no"))) == "VOICE"
    assert map_open_answer("No.", open_rules(("VOICE", "OTHER"), ("yes", "no"))) == "OTHER"
