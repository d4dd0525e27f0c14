"""A leaderboard pairs published detectors on their test clips, corrects over all pairs, and says what its order is worth."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.cli import main
from recipes.leaderboard import LeaderboardRecipe, is_leaderboard, load_leaderboard
from recipes.schema import load_study
from tasks import report_series
from tasks.functional.leaderboard import leaderboard_remarks, paired, ranked, told_apart
from tasks.functional.report import Report
from tasks.functional.report_metrics import Rule
from tasks.functional.significance import adjust_pvalues
from tests.test_report import CLASSES, build, make_predictions, recorded, studied, tiny

BY_DEV = {"provenance": {"settings": {"threshold": "dev"}}}


def published(folder: Path, table: pd.DataFrame, report: Report) -> None:
    folder.mkdir()
    table.to_parquet(folder / "predictions.parquet", index=False)
    (folder / "report.json").write_text(json.dumps(report.model_dump(mode="json")))


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters that were judged on the same clips, one on others, and a table by somebody else."""
    root = tmp_path_factory.mktemp("published")
    table = make_predictions()
    published(root / "first", table, studied())
    worse = table[table["detector"].isin(["adapter"]) & (table["seed"] == 42) & (table["split"] == "test")].copy()
    worse["p_speech"] = np.where(np.arange(len(worse)) % 2, worse["p_speech"], 1 - worse["p_speech"])
    published(root / "second", worse, build(worse))
    others = tiny({"adapter": [1, 0, 1, 1] * 24})
    published(root / "elsewhere", others, build(others, seed=None))
    own = table[(table["detector"] == "adapter") & (table["seed"] == 42)]
    published(root / "by-dev", own, build(own, threshold="dev", recorded=recorded(**BY_DEV)))
    worse[worse["method"] == "generate"].assign(detector="qwen3").to_parquet(root / "qwen3.parquet", index=False)
    return root


@pytest.fixture
def run(repositories, tmp_path, monkeypatch, capsys):
    """The command on a leaderboard of these, in a home of its own."""
    monkeypatch.setenv("EARSHOT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(repositories)
    monkeypatch.setattr(report_series, "figures_of_reports", lambda *arguments: {"evolution": b"png"})

    def command(verb: str, **keys: str) -> tuple[int, str, str]:
        sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
        monkeypatch.setattr(sys, "argv", ["earshot", verb, "study/compare-all", "--set", "n_boot=100", *sets])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return command


def test_adapters_detectors_and_tables_become_one_leaderboard(run, tmp_path):
    code, said, err = run(
        "run", adapters="[first, second]", detectors="[mel_statistics, base]", tables="[qwen3.parquet]"
    )
    assert code == 0, err
    folder = tmp_path / "home" / "comparisons" / "compare-all"
    rows = pd.read_csv(folder / "tables" / "reports.csv")
    assert sorted(rows["report"]) == ["base", "first", "mel_statistics", "qwen3", "second"]
    assert rows["balanced_accuracy"].is_monotonic_decreasing
    pairs = pd.read_csv(folder / "tables" / "pairs.csv")
    assert len(pairs) == 10
    np.testing.assert_allclose(pairs["p_holm"], adjust_pvalues(pairs["p_exact"].to_numpy()))
    same = pairs[(pairs[["first", "second"]].isin(["second", "qwen3"])).all(axis=1)].iloc[0]
    assert (same["difference"], same["told_apart"]) == (0, False), "the same answers under two names"
    page = (folder / "comparison.html").read_text()
    assert (folder / "figures" / "leaderboard.png").stat().st_size > 10_000
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the page opens offline"
    assert "of 10 pairs are told apart" in page
    assert "qwen3 was not audited: whether it was trained on recordings of the test clips is not known." in page
    assert page.count("was not audited") == 1, "the published ones were"
    assert said.splitlines()[-1] == f"leaderboard {folder / 'comparison.html'}"


def test_a_plan_names_what_would_be_compared_and_writes_nothing(run, tmp_path):
    code, said, err = run("plan", adapters="[first]", detectors="[base]")
    assert code == 0, err
    assert said.splitlines()[0].startswith("compare-all: 2 detectors in 1 pairs on the 108 test clips")
    assert said.splitlines()[1:] == ["  first, decided at 0.5, fixed", "  base, decided at 0.5, fixed"]
    assert not (tmp_path / "home").exists()


def test_adapters_that_are_decided_at_different_thresholds_are_told(run, repositories, tmp_path):
    code, said, err = run("run", adapters="[first, by-dev]", detectors="[mel_statistics]")
    assert code == 0, err
    (line,) = (line for line in said.splitlines() if "decided at different thresholds" in line)
    chosen = json.loads((repositories / "by-dev" / "report.json").read_text())["threshold"]["value"]
    assert abs(chosen - 0.5) > 0.001
    for stated in (f"by-dev at {chosen:.3g}, from dev", "first at 0.5, fixed", "mel_statistics at 0.5, fixed"):
        assert stated in line
    folder = tmp_path / "home" / "comparisons" / "compare-all"
    assert "decided at different thresholds" in (folder / "comparison.html").read_text()
    table = pd.read_csv(folder / "tables" / "reports.csv").set_index("report")
    assert table["threshold"].to_dict() == {"first": 0.5, "by-dev": chosen, "mel_statistics": 0.5}
    assert "different thresholds" not in run("run", adapters="[first]", detectors="[mel_statistics]")[1]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"adapters": "[first, elsewhere]", "detectors": "[]"}, "elsewhere was judged on other test clips"),
        (
            {"adapters": "[first]", "detectors": "[silero]"},
            "'silero' was scored with none of the adapters; there are base",
        ),
        (
            {"adapters": "[first]", "detectors": "[]", "tables": "[nowhere.parquet]"},
            "there is no file nowhere.parquet",
        ),
        (
            {"adapters": "[by-dev]", "detectors": "[]", "tables": "[qwen3.parquet]"},
            "qwen3.parquet: the first adapter is decided at a threshold from its dev clips, and this table has no dev",
        ),
        (
            {"adapters": "[first]", "detectors": "[base]", "tables": "[some/base.parquet]"},
            "two of what the leaderboard compares would be called 'base'",
        ),
        ({"adapters": "[first]", "detectors": "[]"}, "one adapter alone is no leaderboard"),
        ({"adapter": "[first]"}, "adapter: no such key; accepted here: adapters"),
    ],
)
def test_what_makes_no_leaderboard_is_refused(run, keys, said):
    code, _, err = run("run", **keys)
    assert code == 2
    assert said in err


def test_only_run_and_plan_take_a_leaderboard():
    assert is_leaderboard("study/compare-all")
    assert not is_leaderboard("study/demo")
    assert load_leaderboard("study/compare-all").detectors
    with pytest.raises(ValueError, match="compares what was published: `earshot run` and `earshot plan` take it"):
        load_study("study/compare-all")


def test_holm_over_all_pairs_may_leave_apart_less_than_single_tests_would():
    right = {name: [1] * 96 for name in "abc"}
    right["b"] = [0, 0, 0, 0, 0, 0] + [1] * 90
    table = tiny(right)
    rows = {name: table[table["detector"] == name].assign(seed=None) for name in right}
    pairs = paired(rows, Rule(CLASSES, 200, 0))
    by_name = {(pair.first, pair.second): pair for pair in pairs}
    assert by_name["a", "b"].found.p_exact < 0.05 < by_name["a", "b"].found.p_holm
    assert not told_apart(by_name["a", "b"])


def test_the_best_stands_first_and_what_has_no_value_last():
    report = studied()
    unknown = report.metrics["balanced_accuracy"].model_copy(update={"value": None, "ci95": None})
    without = report.model_copy(update={"metrics": {**report.metrics, "balanced_accuracy": unknown}})
    base = report.model_copy(update={"metrics": report.detectors["base"].metrics})
    assert [*ranked({"none": without, "base": base, "adapter": report})] == ["adapter", "base", "none"]


def test_a_table_is_decided_as_the_first_adapter_is(tmp_path):
    """A detector whose scores lie low is at chance at .5 and not at the threshold of its own dev clips."""
    columns = ["clip_id", "group_id", "label", "split", "p_speech"]
    high = make_predictions().query("detector == 'adapter' and seed == 42 and method == 'generate'")[columns]
    high.assign(p_speech=high["p_speech"] / 3).to_parquet(tmp_path / "low.parquet", index=False)
    own = high.query("split == 'test'").assign(p_speech=np.nan, prediction=lambda rows: rows["label"])
    own.to_parquet(tmp_path / "own.parquet", index=False)
    recipe = LeaderboardRecipe(schema=1, name="x", adapters=("a",), tables=("low",), n_boot=100)
    value = {}
    for rule, first in {"fixed": studied(), "dev": studied().model_copy(update=BY_DEV)}.items():
        entry = report_series.entry_of_table(tmp_path / "low.parquet", first, recipe)
        value[rule] = entry.report.metrics["balanced_accuracy"].value
        right = (entry.rows["prediction"] == entry.rows["label"]).groupby(entry.rows["label"]).mean()
        assert right.mean() == pytest.approx(value[rule]), "the pairs rest on the answers that are reported"
    assert value["fixed"] == 0.5 < 0.6 < value["dev"]
    decided = report_series.entry_of_table(tmp_path / "own.parquet", first, recipe)
    assert (decided.rows["prediction"] == decided.rows["label"]).all(), "no score, so its own answers"


def test_without_one_answer_a_clip_a_pair_is_not_told_apart_whatever_its_interval():
    right = {"a": [1] * 96, "b": np.random.default_rng(0).integers(0, 2, 96).tolist()}
    table = tiny(right)
    rows = {name: table[table["detector"] == name].assign(seed=None) for name in right}
    seeds = {**rows, "b": pd.concat([rows["b"].assign(seed=seed) for seed in (1, 2)])}
    (once,), (several,) = (paired(each, Rule(CLASSES, 200, 0)) for each in (rows, seeds))
    assert told_apart(once)
    assert (several.found.verdict, several.found.p_holm) == ("better", None)
    assert not told_apart(several)
    reports = {"a": studied(), "b": studied()}
    said = leaderboard_remarks(reports, [several])
    assert said[0] == "a leads, and is not told apart from b."
    assert said[1].startswith("0 of 1 pairs are told apart")
    assert said[2].startswith("Not tested, and so not told apart: a and b. A clip has several answers there")
    assert not any("Not tested" in line for line in leaderboard_remarks(reports, [once]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"leakage": {"verdict": "clean"}}, None),
        ({"leakage": None}, "a was not audited"),
        ({"leakage": {"verdict": "leaky"}}, "a was scored on a split that is not clean"),
        ({"leakage": None, "protocol": "random"}, "a was scored on a split that is not clean"),
    ],
)
def test_what_was_not_audited_is_not_called_clean(change, said):
    reports = {"a": studied().model_copy(update=change)}
    doubts = [line for line in leaderboard_remarks(reports, []) if line.startswith("a was")]
    assert [line.split(":")[0] for line in doubts] == ([said] if said else [])
