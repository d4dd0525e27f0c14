"""An ensemble is a function of tables over the same clips: their mean or their vote, and refused where clips differ."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.functional.ensemble import ensemble
from tasks.functional.predictions import validate_predictions

CLASSES = ("SPEECH", "NONSPEECH")


def table(p=None, said=None, **columns) -> pd.DataFrame:
    """One detector's rows: p_speech and answers by their first letters, '-' for none."""
    n = len(p if p is not None else said)
    rows = pd.DataFrame({"clip_id": [f"c{i}" for i in range(n)], "group_id": [f"g{i}" for i in range(n)]})
    rows = rows.assign(label=[CLASSES[i % 2] for i in range(n)], detector="x", **columns)
    if p is not None:
        rows["p_speech"] = p
    if said is not None:
        rows["prediction"] = [{"S": "SPEECH", "N": "NONSPEECH", "-": None}[letter] for letter in said]
    return validate_predictions(rows, CLASSES)


ROWS = table([0.5] * 3)


def answers(found: pd.DataFrame) -> str:
    return "".join("-" if said is None else said[0] for said in found["prediction"])


def test_the_mean_is_that_of_the_probabilities_and_decides_at_one_half():
    found = ensemble({"a": table([0.9, 0.2, 0.4]), "b": table([0.5, 0.4, 0.6])}, CLASSES, "mean")
    np.testing.assert_allclose(found["p_speech"], [0.7, 0.3, 0.5])
    assert answers(found) == "SNS"


def test_the_mean_takes_no_heed_of_the_members_own_answers():
    """A threshold tuned for one score says nothing about the mean of several."""
    found = ensemble({"a": table([0.3], "S"), "b": table([0.1], "S")}, CLASSES, "mean")
    assert answers(found) == "N"


def test_the_vote_is_the_majoritys_whatever_the_probabilities():
    members = {"a": table([0.0, 1.0], "NS"), "b": table([0.4, 0.6], "SN"), "c": table([0.4, 0.6], "SN")}
    found = ensemble(members, CLASSES, "vote")
    assert answers(found) == "SN"
    np.testing.assert_allclose(found["p_speech"], [2 / 3, 1 / 3])
    assert answers(ensemble(members, CLASSES, "mean")) == "NS"


def test_equal_votes_go_with_the_mean_probability():
    found = ensemble({"a": table([0.9, 0.6, 0.5], "SSS"), "b": table([0.2, 0.1, 0.5], "NNN")}, CLASSES, "vote")
    assert answers(found) == "SNS"
    assert found["p_speech"].tolist() == [0.5, 0.5, 0.5]


def test_equal_votes_go_with_the_probabilities_there_are_and_else_are_refused():
    silent = table(said="N")
    assert answers(ensemble({"a": table([0.9], "S"), "b": silent}, CLASSES, "vote")) == "S"
    with pytest.raises(ValueError, match=r"votes are equal for 1 clips, e\.g\. 'c0', and no member gives p_speech"):
        ensemble({"a": table(said="S"), "b": silent}, CLASSES, "vote")


def test_no_answer_is_no_vote():
    found = ensemble({"a": table(said="S--"), "b": table(said="NN-"), "c": table(said="SN-")}, CLASSES, "vote")
    assert answers(found) == "SN-"
    assert validate_predictions(found.assign(detector="all"), CLASSES)["prediction"].isna().sum() == 1


def test_members_are_matched_by_clip_and_not_by_row():
    a, b = table([0.9, 0.1, 0.8]), table([0.7, 0.3, 0.6])
    straight = ensemble({"a": a, "b": b}, CLASSES)
    shuffled = ensemble({"a": a, "b": b.iloc[[2, 0, 1]].reset_index(drop=True)}, CLASSES)
    pd.testing.assert_frame_equal(straight, shuffled)


def test_dev_and_test_rows_of_one_clip_are_two_rows():
    """As under K folds, where a clip is dev in one fold and test in another."""
    a, b = (pd.concat([table(p, split="dev"), table(q, split="test")]) for p, q in (([0.1], [0.9]), ([0.3], [0.7])))
    found = ensemble({"a": a, "b": b}, CLASSES).set_index("split")["p_speech"]
    assert found.to_dict() == pytest.approx({"dev": 0.2, "test": 0.8})


def test_nothing_of_one_members_detector_is_left():
    member = table([0.9], prompt="?", method="generate", seed=1).assign(answer_mass=0.5, latency_ms=3.0, snr_db=5.0)
    found = ensemble({"a": member, "b": table([0.7])}, CLASSES)
    assert not {"detector", "prompt", "method", "seed", "answer_mass", "latency_ms"} & {*found}
    assert found["snr_db"].tolist() == [5.0]


def test_the_order_of_three_members_changes_no_rounding():
    """.1 + .2 + .3 is not .3 + .2 + .1 in floats, and a table's fingerprint knows every bit."""
    members = {name: table([p]) for name, p in (("a", 0.1), ("b", 0.2), ("c", 0.3))}
    orders = itertools.permutations(members)
    assert len({ensemble({n: members[n] for n in names}, CLASSES)["p_speech"].item() for names in orders}) == 1


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=3, max_size=5),
    st.randoms(use_true_random=False),
    st.sampled_from(["mean", "vote"]),
)
def test_the_order_of_the_members_changes_no_score(scores, random, how):
    members = {
        f"m{i}": ROWS.assign(p_speech=p, prediction=np.where(np.array(p) >= 0.5, *CLASSES))
        for i, p in enumerate(scores)
    }
    names = list(members)
    random.shuffle(names)
    one, other = (ensemble({name: members[name] for name in order}, CLASSES, how) for order in (members, names))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert one["p_speech"].between(0, 1).all()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            table([0.1, 0.2, 0.3]),
            "did not score the same clips: 1 have one of them only, e.g. 'a' lacks the test clip 'c2'",
        ),
        (table([0.1]), "1 have one of them only, e.g. 'b' lacks the test clip 'c1'"),
        (table([0.1, 0.2], split="dev"), "did not score the same clips: 4"),
        (table([0.1, 0.2], fold=1), "give 2 clips another fold, e.g. 'c0'"),
        (table([0.1, 0.2], protocol="random"), "another protocol"),
        (table([0.1, 0.2]).assign(label="SPEECH"), "give 1 clips another label, e.g. 'c1'"),
        (pd.concat([table([0.1, 0.2])] * 2), "'b' has the test clip 'c0' more than once: keep one method, one seed"),
        (table(said="SN"), "'b' gives no p_speech for 2 of 2 clips, e.g. 'c0': an ensemble by mean needs it"),
    ],
)
def test_what_cannot_be_put_together_is_refused_with_the_clip_named(other, reason):
    with pytest.raises(ValueError, match=reason):
        ensemble({"a": table([0.9, 0.2]), "b": other}, CLASSES, "mean")


def test_one_detector_is_no_ensemble_and_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match=r"an ensemble of \['a'\]: name at least two"):
        ensemble({"a": table([0.9])}, CLASSES)
    with pytest.raises(ValueError, match="how is 'median'; accepted are 'mean' and 'vote'"):
        ensemble({"a": table([0.9]), "b": table([0.9])}, CLASSES, "median")
