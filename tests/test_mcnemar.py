"""McNemar's test, its power and its sample sizes against enumeration and statsmodels."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as theirs

from tasks.functional import mcnemar
from tasks.functional.mcnemar import mcnemar_power, mcnemar_sample_size, mcnemar_test, smallest_difference


def right_and_wrong(both, b, c, neither):
    return [1] * (both + b) + [0] * (c + neither), [1] * both + [0] * b + [1] * c + [0] * neither


def test_95_against_92_of_96_decides_nothing():
    result = mcnemar_test(*right_and_wrong(91, 4, 1, 0))
    assert result == (4, 1, pytest.approx(0.375), pytest.approx(3 / 96))


def test_no_discordant_clip_gives_one_where_the_asymptotic_test_claims_certainty():
    same = right_and_wrong(10, 0, 0, 3)
    assert mcnemar_test(*same).p_value == 1
    assert mcnemar_test(*same, method="midp").p_value == 1
    with np.errstate(all="ignore"):
        assert theirs([[10, 0], [0, 3]], exact=False, correction=True).pvalue == 0


@pytest.mark.parametrize(("b", "c"), [*itertools.product(range(0, 9, 2), range(7))])
def test_mcnemar_sums_the_binomial(b, c):
    m, n = min(b, c), b + c
    pmf = [math.comb(n, k) / 2**n for k in range(n + 1)]
    midp = 1 - pmf[m] / 2 if b == c else 2 * sum(pmf[:m]) + pmf[m]
    a = right_and_wrong(5, b, c, 1)
    assert mcnemar_test(*a).p_value == pytest.approx(theirs([[5, b], [c, 1]], exact=True).pvalue)
    assert mcnemar_test(*a, method="midp").p_value == pytest.approx(midp if n else 1)


def test_mcnemar_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="same clips"):
        mcnemar_test([1, 0], [1])
    with pytest.raises(ValueError, match="same clips"):
        mcnemar_test([1, np.nan], [1, 0])
    with pytest.raises(ValueError, match="accepted are 'exact'"):
        mcnemar_test([1], [0], method="chi2")


@pytest.mark.parametrize("method", ["exact", "midp"])
@pytest.mark.parametrize(
    ("n", "difference", "discordance"), [(1, 0.5, 0.5), (13, 0.3, 0.5), (20, -0.4, 0.45), (9, 0, 1)]
)
def test_power_is_the_trinomial_sum_over_tables_that_reject(n, difference, discordance, method):
    share = ((discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance)
    power = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if mcnemar_test(*right_and_wrong(0, b, c, n - b - c), method=method).p_value <= 0.05:
                power += stats.multinomial.pmf([b, c, n - b - c], n, share)
    assert mcnemar_power(n, difference, discordance, method=method) == pytest.approx(power, abs=1e-12)


@pytest.mark.parametrize("discordance", [0.03, 0.05, 0.1, 0.2])
def test_96_clips_see_3_points_one_time_in_twelve(discordance):
    assert 0.06 < mcnemar_power(96, 0.03, discordance) < 0.09


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 1), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_exact_test_keeps_its_level(n, discordance, alpha):
    assert mcnemar_power(n, 0, discordance, alpha=alpha) <= alpha + 1e-12


def test_3_points_need_263_to_1800_independent_clips():
    assert mcnemar_sample_size(0.03, 0.03) == 263
    assert mcnemar_sample_size(0.03, 0.2) == 1800


@pytest.mark.parametrize(("difference", "discordance"), [(0.3, 0.3), (-0.2, 0.3), (0.15, 0.2), (1, 1)])
def test_no_smaller_sample_has_the_power(difference, discordance):
    n = mcnemar_sample_size(difference, discordance)
    powers = [mcnemar_power(k, difference, discordance) for k in range(1, n + 1)]
    assert powers[-1] >= 0.8
    assert max(powers[:-1]) < 0.8


def test_exact_power_is_saw_toothed_so_a_bisection_would_miss_the_smallest():
    n = mcnemar_sample_size(0.5, 0.5)
    later = [mcnemar_power(k, 0.5, 0.5) for k in range(n, 60)]
    assert later[0] >= 0.8
    sizes = [mcnemar_power(k, 0.4, 1) for k in range(20, 60)]
    assert min(np.diff(sizes)) < -0.01


def test_the_design_effect_multiplies_and_rounds_up():
    n = mcnemar_sample_size(0.3, 0.3)
    assert mcnemar_sample_size(0.3, 0.3, design_effect=1.5) == math.ceil(1.5 * n)
    assert mcnemar_sample_size(1, 1, design_effect=1.1) == 7  # 6.6


@pytest.mark.parametrize(
    "call",
    [
        lambda: mcnemar_power(0, 0.1, 0.2),
        lambda: mcnemar_power(10, 0.3, 0.2),
        lambda: mcnemar_power(10, 0.1, 0.2, alpha=0.7),
        lambda: mcnemar_sample_size(0, 0.2),
        lambda: mcnemar_sample_size(0.1, 0.2, power=1),
        lambda: mcnemar_sample_size(0.1, 0.2, design_effect=0),
    ],
)
def test_an_impossible_design_is_refused(call):
    with pytest.raises(ValueError, match=r"give |at least one clip"):
        call()


# --- the smallest difference -------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(6, 400), st.sampled_from([0.05, 0.2, 0.4]))
def test_the_smallest_difference_is_shown_and_one_point_less_is_not(n, discordance):
    def power(difference):
        return mcnemar_power(n, difference, max(discordance, difference))

    smallest = smallest_difference(n, discordance=discordance)
    assert smallest is not None
    assert power(smallest) >= 0.8
    assert power(round(smallest - 0.01, 2)) < 0.8


def test_the_smallest_difference_agrees_with_the_sample_size():
    assert smallest_difference(mcnemar_sample_size(0.1, 0.2), discordance=0.2) == 0.1


def test_five_items_show_no_difference_however_large():
    assert smallest_difference(5, discordance=0.2) is None  # five to nothing has p = .0625
    assert smallest_difference(6, discordance=0.2) is not None


def test_a_finer_step_finds_a_difference_no_larger():
    coarse, fine = (smallest_difference(700, discordance=0.2, step=step) for step in (0.01, 0.001))
    assert 0 <= coarse - fine < 0.01
    assert mcnemar_power(700, fine, 0.2) >= 0.8 > mcnemar_power(700, fine - 0.001, 0.2)


def test_of_ten_million_items_only_numbers_of_disagreements_that_occur_are_gone_through(monkeypatch):
    """All of them, seven times, took a plan of 48 million clips 98 s without a word."""
    asked: list[int] = []
    rejection = mcnemar._rejection
    monkeypatch.setattr(
        mcnemar, "_rejection", lambda discordant, *a: asked.append(len(discordant)) or rejection(discordant, *a)
    )
    mcnemar_power(10_000_000, 0.01, 0.2)
    assert asked.pop() < 24 * math.sqrt(10_000_000 * 0.2 * 0.8) + 62
    assert mcnemar.smallest_difference(10**15, discordance=0.2) == 0.01
    assert asked == [len(mcnemar._likely(mcnemar.MANY, 0.2))], "what a million items show, more do"
    assert mcnemar.smallest_difference(2 * mcnemar.MANY, discordance=0.2, step=1e-4) > 1e-4, (
        "what they do not is asked"
    )


def test_power_without_the_tails_is_that_of_all_numbers_of_disagreements():
    n, discordance = 4000, 0.1
    every = np.arange(n + 1)
    rejects = mcnemar._rejection(every, 0.02, discordance, 0.05, "exact")
    assert mcnemar_power(n, 0.02, discordance) == pytest.approx(
        stats.binom.pmf(every, n, discordance) @ rejects, abs=1e-12
    )
