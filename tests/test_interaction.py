"""SNR x duration is found where it is, hidden where classes cancel, and stated with errors over groups."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tasks.functional.interaction import ALL, interaction_section
from tasks.functional.report_schema import Section
from tasks.functional.significance import cluster_logit

S, N = "SPEECH", "NONSPEECH"
OTHER = {S: N, N: S}


def trials(
    groups: int = 12, slopes: dict[str, tuple[float, float, float]] | None = None, spread: float = 0.8, seed: int = 0
) -> pd.DataFrame:
    """Every group hears every level, three times; slopes: class -> per dB, per decade, interaction."""
    rng, rows = np.random.default_rng(seed), []
    for label in (S, N):
        per_db, per_decade, both = (slopes or {}).get(label, (0.1, 1.0, 0.1))
        for g in range(groups):
            ease = 0.8 + rng.normal(0, spread)
            for snr_db in (-10, -5, 0, 5, 10):
                for duration_ms in (20, 80, 200, 1000):
                    x, y = snr_db, math.log10(duration_ms) - 2.13
                    p = 1 / (1 + math.exp(-(ease + per_db * x + per_decade * y + both * x * y)))
                    rows += [(f"{label}{g}", label, snr_db, duration_ms, rng.random() < p) for _ in range(3)]
    table = pd.DataFrame(rows, columns=["group_id", "label", "snr_db", "duration_ms", "right"])
    answer = np.where(table.right, table.label, table.label.map(OTHER)).astype(object)
    return table.assign(clip_id=[f"clip{i}" for i in table.index], prediction=answer)


def test_an_interaction_that_is_there_is_found_at_its_size_and_its_sign():
    fit = interaction_section(trials()).fits[ALL]
    found = fit.coefficients["interaction"]
    assert found.value == pytest.approx(0.1, abs=0.04)  # population-averaged: a little nearer to 0 than a group's own
    assert found.ci95[0] > 0
    assert found.p < 0.001
    none = interaction_section(trials(slopes={S: (0.1, 1, 0), N: (0.1, 1, 0)})).fits[ALL].coefficients["interaction"]
    assert none.ci95[0] < 0 < none.ci95[1]


def test_the_fit_is_the_cluster_robust_logit_around_the_mean_levels_with_students_t():
    table = trials(groups=7)
    section = interaction_section(table)
    decades = np.log10(table.duration_ms)
    by_hand = table.assign(
        correct=(table.prediction == table.label) * 1, x=table.snr_db - table.snr_db.mean(), y=decades - decades.mean()
    )
    expected = cluster_logit(by_hand, "correct ~ x * y")
    fit = section.fits[ALL]
    assert section.centre == pytest.approx({"snr_db": 0, "log10_duration_ms": decades.mean()})
    assert [c.value for c in fit.coefficients.values()] == pytest.approx(expected.coef)
    assert (fit.clips, fit.groups, fit.df, fit.reason) == (len(table), 14, 6, None)
    assert fit.mcfadden_r2 == pytest.approx(expected.mcfadden_r2)
    for found, value, se in zip(fit.coefficients.values(), expected.coef, expected.se, strict=True):
        assert found.ci95 == pytest.approx(stats.t.interval(0.95, 6, loc=value, scale=se))
        assert found.p == pytest.approx(2 * stats.t.sf(abs(value) / se, 6))


def test_a_bias_that_moves_with_noise_hides_in_all_clips_and_shows_in_each_class():
    fits = interaction_section(trials(slopes={S: (0.1, 1, 0), N: (-0.1, -1, 0)})).fits
    slope = {name: fit.coefficients["snr_db"] for name, fit in fits.items()}
    assert slope[ALL].ci95[0] < 0 < slope[ALL].ci95[1]
    assert slope[S].ci95[0] > 0
    assert slope[N].ci95[1] < 0


def test_answers_repeated_under_four_seeds_are_no_more_evidence():
    table = trials(groups=8)
    once, four = (interaction_section(t).fits[ALL] for t in (table, pd.concat([table] * 4)))
    assert four.coefficients["interaction"].ci95 == pytest.approx(once.coefficients["interaction"].ci95)
    assert four.mcfadden_r2 == pytest.approx(once.mcfadden_r2)


def test_no_answer_is_wrong():
    table = trials(groups=4)
    silent = table.assign(prediction=table.prediction.where(table.snr_db >= 0))
    wrong = table.assign(prediction=table.prediction.where(table.snr_db >= 0, table.label.map(OTHER)))
    assert interaction_section(silent) == interaction_section(wrong)


def test_clips_without_noise_or_a_set_duration_are_left_out():
    table = trials(groups=4)
    more = table.head(9).assign(clip_id=lambda t: t.clip_id + "+", snr_db=np.nan)
    assert interaction_section(pd.concat([table, more])) == interaction_section(table)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.drop(columns="snr_db"),
        lambda t: t[t.snr_db == 0],
        lambda t: t.assign(duration_ms=t.duration_ms.where(t.duration_ms == 80)),
        lambda t: t.assign(snr_db=np.nan),
    ],
)
def test_where_not_both_vary_there_is_no_interaction(change):
    assert interaction_section(change(trials(groups=2))) is None


def test_few_groups_are_marked_and_too_few_have_no_errors():
    for groups, reason, known in (
        (3, "only 3 groups in the smaller class: unreliable", True),
        (2, "4 groups, 2 in the smaller class: too few for errors of 4 coefficients", False),
    ):
        fit = interaction_section(trials(groups=groups)).fits[ALL]
        assert fit.reason == reason
        assert all((c.ci95 is not None) == known for c in fit.coefficients.values())
    one = trials(groups=5)
    one = one[(one.label == N) | (one.group_id == f"{S}0")]  # one speaker: 6 groups, and still nothing is known
    fits = interaction_section(one).fits
    assert fits[ALL].coefficients["snr_db"].ci95 is None
    assert fits[S].reason == "all clips are of one group: errors over groups need 2"
    assert fits[N].reason is None


def test_what_cannot_be_fitted_says_why():
    table = trials(groups=3)
    perfect = interaction_section(table.assign(prediction=table.label)).fits[ALL]
    assert (perfect.coefficients, perfect.reason) == ({}, "every clip is right: nothing to fit")
    step = np.where(table.snr_db > 0, table.label, table.label.map(OTHER))
    assert "separates right from wrong" in interaction_section(table.assign(prediction=step)).fits[ALL].reason
    with pytest.raises(ValueError, match="clip 'clip0' has a duration of 0 ms"):
        interaction_section(table.assign(duration_ms=[0, *table.duration_ms[1:]]))


def test_the_section_is_plain_json():
    section = interaction_section(trials(groups=2))
    assert isinstance(section, Section)
    assert type(section).model_validate_json(section.model_dump_json()) == section
