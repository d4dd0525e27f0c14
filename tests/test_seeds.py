"""Seeds that answer alike are said to, and told apart from one adapter that stands there twice."""

import numpy as np
import pandas as pd
import pytest

from tasks.functional.report import build_report
from tasks.functional.seeds import Alike, alike, spread_of


def answers(p, order=None):
    rows = pd.DataFrame({"clip_id": [f"c{i}" for i in range(len(p))], "p_speech": p})
    rows["prediction"] = np.where(rows["p_speech"] >= 0.5, "SPEECH", "NONSPEECH")
    return rows if order is None else rows.iloc[order]


def test_seeds_that_answer_alike_are_found_whatever_the_order_of_rows():
    rows = {1: answers([0.9, 0.2, 0.7]), 2: answers([0.6, 0.4, 0.8], [2, 0, 1]), 3: answers([0.1, 0.2, 0.7])}
    assert alike(rows) == [Alike([1, 2], False)]
    assert alike({**rows, 4: answers([0.1, 0.2, 0.7], [1, 2, 0])}) == [Alike([1, 2], False), Alike([3, 4], True)]
    assert alike({1: rows[1], 3: rows[3]}) == []


def test_the_spread_is_that_of_a_sample():
    assert spread_of({1: 0.5, 2: 0.7, 3: 0.9}) == pytest.approx((0.7, 0.2))
    with pytest.raises(ValueError, match="1 seed has no spread"):
        spread_of({1: 0.5})


def table(p_by_seed) -> pd.DataFrame:
    parts = []
    for seed, p in p_by_seed.items():
        rows = answers(p).drop(columns="prediction")
        groups = [f"g{i // 2}" for i in range(len(p))]
        parts.append(rows.assign(seed=seed, detector="adapter", split="test", group_id=groups,
                                 label=["SPEECH" if i < len(p) // 2 else "NONSPEECH" for i in range(len(p))]))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_a_report_of_several_seeds_says_how_far_apart_they_lie_and_which_are_no_two():
    one, other = [0.9] * 6 + [0.8] * 2 + [0.1] * 8, [0.9] * 4 + [0.2] * 4 + [0.1] * 8
    report = build_report(
        table({42: one, 123: one, 456: other}),
        detector="adapter",
        seed=42,
        n_boot=100,
        classes=("SPEECH", "NONSPEECH"),
    )
    spread = report.seeds_spread
    assert spread is not None
    assert spread.balanced_accuracy_mean == pytest.approx((1 + 1 + 0.75) / 3)
    assert spread.balanced_accuracy_sd == pytest.approx(np.std([1, 1, 0.75], ddof=1))
    assert [(its.seeds, its.to_the_bit) for its in spread.alike] == [([42, 123], True)]
    alone = build_report(table({42: one}), detector="adapter", seed=42, n_boot=100, classes=("SPEECH", "NONSPEECH"))
    assert alone.seeds_spread is None
