"""Power of a design against McNemar's enumeration, of a test set against simulation, and the command that prints both."""

import math
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows import cli
from tasks.functional.intervals import paired_difference
from tasks.functional.mcnemar import mcnemar_power, mcnemar_sample_size
from tasks.functional.power import (
    Design,
    clips_for,
    groups_for,
    power_for,
    power_section,
    smallest_by_interval,
    smallest_for,
)
from tasks.functional.significance import design_effect
from tests.bench.bench_coverage import decisions
from tests.test_significance import N, S, table_of


def two_detectors(seed: int = 0, groups: int = 12, icc: float = 0.2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Right on 0.75 and 0.70 of the clips, just the first on 0.10."""
    a, b = decisions(np.random.default_rng(seed), groups, icc, 0.75, 0.70, 0.10)
    return a, b


# --- a design ----------------------------------------------------------------------------------------------------


def test_a_design_effect_of_four_needs_four_times_the_clips_and_groups():
    one, four = (Design(1200, 100, 50, 0.1, effect) for effect in (1.0, 4.0))
    assert clips_for(0.03, one) == mcnemar_sample_size(0.03, 0.1)
    assert clips_for(0.03, four) == 4 * clips_for(0.03, one)
    assert groups_for(clips_for(0.03, four), four) == math.ceil(4 * mcnemar_sample_size(0.03, 0.1) / 12)
    assert power_for(0.03, four) == mcnemar_power(300, 0.03, 0.1)
    assert power_for(0.03, four) < power_for(0.03, one) / 2  # what ignoring groups would promise


@settings(max_examples=15, deadline=None)
@given(st.integers(40, 900), st.floats(1, 5), st.sampled_from([0.05, 0.2, 0.4]))
def test_the_smallest_difference_is_shown_and_a_tenth_of_a_point_less_is_not(clips, effect, discordance):
    design = Design(clips, 20, 10, discordance, effect)
    smallest = smallest_for(design)
    assert smallest is not None
    assert power_for(smallest, design) >= 0.8
    assert power_for(smallest - 0.001, design) < 0.8


def test_clips_that_are_worth_less_than_one_show_nothing():
    design = Design(5, 5, 2, 0.2, 6.0)
    assert (power_for(0.03, design), smallest_for(design)) == (0.0, None)


def test_over_few_groups_the_t_interval_needs_more_than_mcnemar():
    few, many = (Design(2000, 2 * groups, groups, 0.2, 2.0) for groups in (3, 200))
    assert smallest_by_interval(few) > 1.5 * smallest_for(few)
    assert smallest_by_interval(many) == pytest.approx(smallest_for(many), rel=0.1)


def test_a_discordance_never_seen_is_no_power_without_end():
    design = Design(300, 20, 10, 0.0, 1.0)
    assert smallest_by_interval(design) == pytest.approx(smallest_for(design), rel=0.5)


# --- a test set --------------------------------------------------------------------------------------------------


def test_the_section_holds_what_the_pairs_measure():
    a, b = two_detectors()
    found = power_section(a, b)
    right_a, right_b = ((t.prediction == t.label).to_numpy() for t in (a, b))
    assert (found.clips, found.groups) == (len(a), 24)
    assert found.discordance == pytest.approx((right_a != right_b).mean())
    assert (found.discordance_of, found.design_effect_of) == ("both detectors", "the difference")
    assert found.n_eff == pytest.approx(len(a) / found.design_effect)
    design = Design(len(a), 24, 12, found.discordance, found.design_effect)
    assert found.smallest_detectable_difference == smallest_for(design)
    assert found.n_for_3_points == mcnemar_sample_size(0.03, found.discordance, design_effect=found.design_effect)
    assert found.groups_for_3_points == math.ceil(found.n_for_3_points * 24 / len(a))


def test_the_design_effect_is_that_of_the_difference_within_class():
    counts = {S: [(9, 10), (8, 10), (2, 10), (7, 10)], N: [(3, 10), (1, 10), (0, 10), (2, 10)]}
    a = table_of(counts)
    alone = power_section(a)
    right = (a.prediction == a.label).astype(int)
    of_class = [design_effect(right[a.label == name], a.group_id[a.label == name]).deff for name in (S, N)]
    assert min(of_class) < alone.design_effect < max(of_class)
    assert alone.design_effect < design_effect(right, a.group_id).deff - 0.5  # which takes the classes for likeness
    assert alone.discordance == pytest.approx(2 * right.mean() * (1 - right.mean()))
    assert alone.discordance_of == "independent errors"


def test_one_speaker_in_test_shows_no_difference_and_yet_what_would():
    """19 of 24 against 20 of 24 over one speech group and two of sounds."""
    a = table_of({S: [(3, 8)], N: [(8, 8), (8, 8)]})
    b = table_of({S: [(4, 8)], N: [(8, 8), (8, 8)]})
    found = power_section(a, b)
    assert (found.smallest_detectable_difference, found.by_interval) == (None, None)
    assert found.reason == "all clips of SPEECH are of one group: no difference can be shown"
    assert found.n_for_3_points >= mcnemar_sample_size(0.03, 1 / 24)
    assert found.groups_for_3_points >= found.n_for_3_points / 8


@pytest.mark.parametrize("counts", [{S: [(3, 8)], N: [(5, 6)]}, {S: [(8, 8), (8, 8)], N: [(6, 6), (6, 6)]}])
def test_where_groups_tell_no_likeness_they_stand_or_fall_together(counts):
    found = power_section(table_of(counts))
    sizes = [n for groups in counts.values() for _, n in groups]
    assert found.design_effect == pytest.approx(sum(n * n for n in sizes) / sum(sizes))
    assert found.design_effect_of == "groups that stand or fall together"


def test_tables_are_paired_by_clip_and_only_clips_in_both_count():
    a, b = two_detectors()
    found = power_section(a.iloc[10:], b.sample(frac=1, random_state=0).iloc[5:])
    both = set(a.clip_id[10:]) & set(b.sample(frac=1, random_state=0).clip_id[5:])
    assert found.clips == len(both) < len(a) - 10
    with pytest.raises(ValueError, match="none of the"):
        power_section(a, b.assign(clip_id=b.clip_id + 10**6))
    with pytest.raises(ValueError, match=r"label of .* differs"):
        power_section(a, b.assign(label=N))
    with pytest.raises(ValueError, match="stands twice: give one answer a clip"):
        power_section(pd.concat([a, a]), b)


@pytest.mark.slow
def test_intervals_find_the_difference_that_the_section_promises_four_times_in_five():
    rng, groups, icc, only_a = np.random.default_rng(0), 15, 0.2, 0.15
    pilot = [power_section(*decisions(rng, groups, icc, 0.75, 0.70, only_a)) for _ in range(40)]
    promised = float(np.mean([found.by_interval for found in pilot]))
    b = 0.75 - promised
    shown = 0
    for _ in range(400):
        tables = decisions(rng, groups, icc, 0.75, b, (0.25 + promised) / 2)  # as discordant as the pilots
        shown += paired_difference(*tables, "accuracy", seed=0).low > 0
    assert shown / 400 == pytest.approx(0.8, abs=0.08)


# --- the command -------------------------------------------------------------------------------------------------


def power(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["power", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_prices_a_design():
    said = power("--difference", "0.03", "--discordance", "0.10", "--design-effect", "4", "--clips-per-group", "12")
    independent = mcnemar_sample_size(0.03, 0.1)
    assert f"{independent} independent clips" in said
    assert f"{4 * independent:,} clips at a design effect of 4" in said
    assert f"{math.ceil(4 * independent / 12)} groups of 12 clips" in said
    assert "power of" not in said
    more = power("--discordance", "0.10", "--design-effect", "4", "--clips", "1000")
    assert f"shown with a power of {mcnemar_power(250, 0.03, 0.1):.2f}" in more


def test_the_command_measures_on_tables(tmp_path):
    a, b = two_detectors()
    for name, table in (("a", a), ("b", b)):
        table.astype({"clip_id": str, "group_id": str}).to_parquet(tmp_path / f"{name}.parquet")
    found = power_section(a, b)
    said = power("--predictions", str(tmp_path / "a.parquet"), "--against", str(tmp_path / "b.parquet"))
    assert f"{len(a)} clips from 24 groups, of {len(a)} and {len(a)} those that pair" in said
    assert f"design effect  {found.design_effect:.1f}, of the difference" in said
    assert f"3 points need {found.n_for_3_points:,} clips from {found.groups_for_3_points:,} groups" in said
    alone = power("--predictions", str(tmp_path / "a.parquet"))
    assert "of two as good as this one whose errors are independent" in alone


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give --discordance"),
        (["--discordance", "0.02"], "a discordance from the difference up to 1"),
        (["--discordance", "0.1", "--design-effect", "0"], "design effect is 0"),
        (["--discordance", "0.1", "--difference", "0"], "a difference other than 0"),
        (["--discordance", "0.1", "--against", "x.parquet"], "--against has no meaning without --predictions"),
        (["--predictions", "x.parquet", "--clips", "9"], "--clips has no meaning beside --predictions"),
        (["--predictions", "x.parquet"], "there is no file x.parquet"),
        (["--predictions", __file__], "is not readable as parquet"),
        (["--predictions", __file__, "--classes", "A"], "give two different names"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_sentence(monkeypatch, capsys, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["earshot", "power", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_several_seeds_or_detectors_are_asked_for(tmp_path, monkeypatch, capsys):
    a, b = (t.astype({"clip_id": str, "group_id": str}) for t in two_detectors())
    path = tmp_path / "table.parquet"
    for column, values, sentence in (("seed", (1, 2), "--seed"), ("detector", ("x", "y"), "--detector")):
        pd.concat([a.assign(**{column: values[0]}), b.assign(**{column: values[1]})]).to_parquet(path)
        monkeypatch.setattr(sys, "argv", ["earshot", "power", "--predictions", str(path)])
        with pytest.raises(SystemExit):
            cli.main()
        assert sentence in capsys.readouterr().err
        assert "clips from 24 groups" in power("--predictions", str(path), f"--{column}", str(values[0]))
