"""What may be asked, what tells the answer, and what a proposer's words come to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.prompts import default_search
from tasks.functional.prompt_grammar import edits, propose
from tasks.functional.prompt_meta import BEGIN, END, Mistake, Scored, describe_clip, meta_prompt, read_proposals
from tasks.functional.prompt_text import Wording, refusal, same, style_of, usable

CLASSES, AB = ("SPEECH", "NONSPEECH"), ("A", "B")
OWN = "Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Answer with A or B ONLY."


def why(text: str, answers: tuple[str, str] = AB) -> str | None:
    return refusal(Wording(text, answers), CLASSES)


def test_every_prompt_written_by_hand_may_be_asked_and_says_where_it_is_from():
    prompts = default_search().prompts
    assert len(prompts) >= 10
    assert {prompt.kind for prompt in prompts} == {"choice", "multiple_choice", "labels", "open"}
    assert all(why(prompt.text, prompt.answers or AB) is None for prompt in prompts)
    assert all(prompt.origin != "unnamed" for prompt in prompts)
    assert any("baseline" in prompt.origin for prompt in prompts)
    assert any("winner" in prompt.origin for prompt in prompts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The answer is A, not B.", None),  # names both: odd, but gives nothing away
        ("Is it A or B? The correct answer is A.", "tells the answer: 'The correct answer is A'"),
        ("Always answer B. Or is it A?", "tells the answer"),
        ("A) or B)? This clip is speech.", "tells the answer: 'This clip is speech'"),
        ("Answer A. Never B, though B is possible.", "tells the answer"),
        ("Answer A if you hear a voice. Otherwise answer B.", None),
        ("A = voice. B = anything else. Which?", None),
        ("Is this speech?", "leaves out the choices: 'A' and 'B'"),
        ("Which one is right, A?", "leaves out the choices: 'B'"),
        ("A or", "has 2 words"),
        ("??? !!! ... A B", "no question"),
        ("A or B? " + "very " * 60, "too long: 63 words"),
        ("A or B? <|im_end|> system", "holds '<|'"),
        ("A or B? Clip 17 was A.", "quotes an example: 'Clip 17'"),
        ("A or B? score: 93", "quotes an example: 'score:'"),
        ("A or B \x00 of the two", "no part of a question"),
    ],
)
def test_what_may_not_be_asked_is_refused_with_the_reason(text, reason):
    found = why(text)
    assert found is None if reason is None else (found is not None and reason in found), found


def test_a_yes_no_question_need_not_name_its_answers_and_labels_must():
    assert why("Does this audio contain human speech?", ("Yes", "No")) is None
    assert "leaves out" in why("Tell me about the audio here.", ("Yes", "No"))
    assert why("Is it SPEECH or NON-SPEECH?", ("SPEECH", "NON")) is None
    assert "'SPEECH'" in why("Is it a voice or NON-SPEECH?", ("SPEECH", "NON"))


def test_proposals_are_kept_once_and_the_rest_is_logged():
    voice = "Voice or not? A) yes B) no"
    texts = [f'"{OWN}"', voice.replace("yes ", "yes  "), voice, "VOICE OR NOT? A) yes B) no", "gibberish"]
    kept, dropped = usable(texts, [OWN], AB, CLASSES, 60)
    assert kept == ["Voice or not? A) yes B) no", "VOICE OR NOT? A) yes B) no"], "capitals make another prompt"
    assert [reason.split(":")[0] for _, reason in dropped] == ["the same as an earlier one"] * 2 + ["has 1 word"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=120), max_size=6))
def test_whatever_is_proposed_is_either_asked_or_logged(texts):
    kept, dropped = usable(texts, [], AB, CLASSES, 60)
    assert len(kept) + len(dropped) == len(texts)
    assert all(why(text) is None for text in kept)
    assert len({same(text) for text in kept}) == len(kept)


def test_the_grammar_is_deterministic_new_and_mostly_usable():
    known = [OWN, "Is anyone speaking here? A) yes, a voice B) no voice"]
    found = propose(known, 60, AB, CLASSES, known, seed=4)
    assert found == propose(known, 60, AB, CLASSES, known, seed=4)
    assert found != propose(known, 60, AB, CLASSES, known, seed=5)
    assert len(found) == len(set(found)) == 60
    assert not set(found) & set(known)
    kept, _ = usable(found, known, AB, CLASSES, 60)
    assert len(kept) > 50
    assert propose(known, 5, AB, CLASSES, [*known, *propose(known, 10_000, AB, CLASSES, known, 0)], seed=0) == []


def test_the_grammar_answers_by_other_letters_and_classes_as_well():
    for text in propose([], 30, ("X", "Y"), ("BIRD", "OTHER"), [], seed=0):
        assert "X" in text
        assert "SPEECH" not in text


def test_edits_make_questions_commands_orders_and_lengths():
    made = set(edits(Wording(OWN, AB)))
    assert any("B) NONSPEECH (music/noise/silence/animals) A) SPEECH (human voice)" in text for text in made)
    assert any("(human voice)" not in text for text in made)
    assert any(text.endswith("?") for text in made)
    assert OWN not in made


def test_style_is_what_a_reader_sees():
    style = style_of(Wording(OWN, AB), CLASSES)
    assert style.command
    assert style.capitals, "ONLY"
    assert style.examples
    assert not style.question
    assert not style.swapped
    assert not style.short
    other = style_of(Wording("NONSPEECH (B) or SPEECH (A)?", AB), CLASSES)
    assert other.question
    assert other.swapped
    assert other.short
    assert not other.capitals


# --- the meta-prompt ---------------------------------------------------------------------------------------------


def test_the_best_prompts_are_shown_in_ascending_order_with_mistakes_and_the_task():
    history = [Scored(f"prompt {k}", 0.5 + k / 100) for k in (3, 1, 4, 2)]
    (turn,) = meta_prompt(
        history, AB, CLASSES, [Mistake("80 ms, 0 dB SNR", "NONSPEECH", "SPEECH")], most=3, most_words=40
    )
    text = turn["content"]
    assert "prompt 1" not in text, "only the best three"
    assert text.index("prompt 2") < text.index("prompt 3") < text.index("prompt 4")
    assert "score:\n54" in text
    assert "80 ms, 0 dB SNR: answered NONSPEECH, true answer SPEECH" in text
    assert "at most 40 words" in text


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (f"Sure! {BEGIN}Is it A or B?{END} Hope it helps.", ["Is it A or B?"]),
        (f"{BEGIN}Is it A\nor B?", ["Is it A or B?"]),  # cut off by the number of tokens
        ("[Is it A or B, tell me?]", ["Is it A or B, tell me?"]),
        ("1. Is it A or B?\n- Voice (A) or not (B)?", ["Is it A or B?", "Voice (A) or not (B)?"]),
        ("", []),
        ("\n\n  \n", []),
    ],
)
def test_instructions_are_found_in_what_was_said(said, found):
    assert read_proposals([said]) == found


def test_a_clip_is_described_as_far_as_it_is_known():
    row = {"duration_ms": 80.0, "snr_db": float("nan"), "band": "phone", "room": None, "family": "animals"}
    assert describe_clip(row) == "80 ms, no noise added, band phone, animals"
