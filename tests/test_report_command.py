"""`earshot report` on anybody's table: published figures come out exactly, and what cannot be said is refused."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, logit

from flows.cli import main
from tasks import pace, table_reports
from tasks.audio_files import encode_flac
from tasks.functional import plot_canvas, report_files
from tasks.functional.calibration import choose_threshold, fit_temperature
from tasks.functional.significance import binomial_interval, mcnemar_sample_size

ROOT = Path(__file__).parent.parent
CLASSES = ("SPEECH", "NONSPEECH")
OTHER = {"SPEECH": "NONSPEECH", "NONSPEECH": "SPEECH"}


@pytest.fixture
def figures(monkeypatch) -> None:
    """Figures are drawn, with few dots."""
    monkeypatch.setattr(plot_canvas, "DPI", 50)


@pytest.fixture
def page() -> None:
    """report.html is written."""


class Ran:
    """How `earshot report` ended: exit code, output, and the report if there is one."""

    def __init__(self, code: int, out: str, err: str, folder: Path) -> None:
        self.code, self.out, self.err, self.folder = code, out, err, folder

    @property
    def report(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        return json.loads((self.folder / "report.json").read_text())


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, request):
    """Run the command in this process, in an empty folder; tables are written to it, options are strings.

    Figures and page take most of the time: they are drawn only in tests that use the fixtures `figures` and `page`.
    """
    monkeypatch.chdir(tmp_path)
    for name, nothing in {"figures": lambda *arguments: {}, "page": lambda *arguments: ""}.items():
        if name not in request.fixturenames:
            monkeypatch.setattr(report_files, name, nothing)

    def command(table, *options: str, out: str = "out", **others: pd.DataFrame) -> Ran:
        for name, content in {"mine": table, **others}.items():
            if isinstance(content, pd.DataFrame):
                content.to_parquet(f"{name}.parquet", index=False)
        source = "mine.parquet" if isinstance(table, pd.DataFrame) else str(table)
        arguments = ["earshot", "report", source, "--out", out, "--n-boot", "60", *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return Ran(int(stop.value.code or 0), said.out, said.err, tmp_path / out)

    return command


def decisions(right: list[int], groups: int = 6, **columns: Any) -> pd.DataFrame:
    """Clips of alternating classes, right or wrong as given, `groups` a class."""
    label = [CLASSES[i % 2] for i in range(len(right))]
    said = [truth if good else OTHER[truth] for truth, good in zip(label, right, strict=True)]
    group = [f"{truth[0]}{i // 2 % groups}" for i, truth in enumerate(label)]
    clips = [f"c{i:03d}" for i in range(len(right))]
    return pd.DataFrame({"clip_id": clips, "group_id": group, "label": label, "prediction": said, **columns})


def scores(n: int = 240, skill: float = 1.2, draw: int = 0, groups: int = 6, **columns: Any) -> pd.DataFrame:
    """Clips with p_speech that tells the classes apart by `skill`; durations, families and phonemes vary."""
    rng, table = np.random.default_rng(draw), decisions([1] * n, groups).drop(columns="prediction")
    sign = np.where(table["label"] == "SPEECH", 1, -1)
    return table.assign(
        p_speech=expit(skill * sign + rng.normal(size=n)),
        duration_ms=np.repeat([20.0, 200.0, 1000.0], n // 3),
        family=np.where(sign > 0, "voice", np.where(np.arange(n) % 4 == 1, "music", "rain")),
        phoneme=np.array(["aː", "t", "m"])[np.arange(n) % 3],
        **columns,
    )


def dev_of(table: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    return table.assign(clip_id="dev" + table["clip_id"], group_id="dev" + table["group_id"], **columns)


# --- published predictions ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> tuple[Path, dict[str, Any]]:
    folder = os.environ.get("EARSHOT_REFERENCE")
    if not folder:
        pytest.skip("EARSHOT_REFERENCE names no folder with qwen2_audio_base.parquet and its published figures")
    published = json.loads((Path(folder) / "qwen2_audio_base_published.json").read_text())
    return Path(folder) / "qwen2_audio_base.parquet", published


def test_published_figures_come_out_exactly_and_with_intervals_that_know_the_24_clips(reference, run):
    table, published = reference
    ran = run(table, "--n-boot", "500")
    report = ran.report
    value = {name: metric["value"] for name, metric in report["metrics"].items()}
    assert value["balanced_accuracy"] == published["ba_clip"]
    assert (value["recall_speech"], value["recall_nonspeech"]) == (published["speech_acc"], published["nonspeech_acc"])
    assert value["accuracy"] == published["overall_acc"]
    for factor, levels in (("duration_ms", "duration_metrics"), ("snr_db", "snr_metrics")):
        assert set(report["by"][factor]) == set(published[levels])
        for level, theirs in published[levels].items():
            ours = report["by"][factor][level]
            stated = [ours[name]["value"] for name in ("balanced_accuracy", "recall_speech", "recall_nonspeech")]
            assert stated == pytest.approx([theirs["ba"], theirs["speech_acc"], theirs["nonspeech_acc"]], abs=1e-15)
            assert ours["clips"] == theirs["n_samples"]
    assert (report["n"]["clips"], report["n"]["base_clips"], report["n"]["groups"]) == (1152, 24, 24)
    low, high = report["metrics"]["accuracy"]["ci95"]
    naive = binomial_interval(844, 1152)
    assert high - low > 4 * (naive.high - naive.low), "24 clips tell less than 1,152 would"
    assert report["design_effect"]["n_eff"] < 100
    assert report["metrics"]["roc_auc"]["reason"] == "1152 of 1152 clips have no p_speech"
    assert "no roc_auc, average_precision, brier" in ran.out
    assert report["calibration"] is None


# --- what a call leaves ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("figures", "page")
def test_a_call_leaves_document_schema_page_figures_and_tables_and_prints_the_summary(run):
    import jsonschema

    ran = run(scores(120), "--by", "phoneme")
    report = ran.report
    jsonschema.validate(report, json.loads((ran.folder / "report.schema.json").read_text()))
    assert {path.name for path in ran.folder.iterdir()} == table_reports.OURS - {"timing.json"}
    assert (ran.folder / "figures" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    metrics = pd.read_csv(ran.folder / "tables" / "metrics.csv").set_index("metric")
    assert metrics.loc["roc_auc", "value"] == report["metrics"]["roc_auc"]["value"]
    shown = report["metrics"]["balanced_accuracy"]["value"]
    assert re.search(rf"^mine +{shown:.3f}".rstrip("0"), ran.out, re.MULTILINE)
    assert f"report     {Path('out') / 'report.html'}" in ran.out
    assert set(report["by"]) == {"duration_ms", "family", "phoneme"}
    page = (ran.folder / "report.html").read_text()
    assert "draws groups 60 times" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the page opens offline"


@pytest.mark.usefixtures("figures", "page")
@pytest.mark.slow
def test_times_of_the_table_are_drawn(run):
    ran = run(scores(60, latency_ms=30.0))
    assert (ran.folder / "figures" / "accuracy_by_latency.png").exists()
    assert "accuracy by latency" in (ran.folder / "report.html").read_text()


@pytest.mark.slow
def test_times_of_the_table_go_into_a_file_of_their_own_and_into_no_number(run):
    slow, fast = (scores(60, draw=i, latency_ms=ms) for i, ms in ((0, 30.0), (1, 2.0)))
    ran = run(slow, "--against", "fast.parquet", "--against", "untimed.parquet", fast=fast, untimed=scores(60, draw=2))
    timing = json.loads((ran.folder / "timing.json").read_text())
    assert timing["mine"] == {"clips": 60, "p05_ms": 30.0, "median_ms": 30.0, "p95_ms": 30.0}
    assert {name: one["median_ms"] for name, one in timing.items()} == {"mine": 30.0, "fast": 2.0}
    plain = run(slow.drop(columns="latency_ms"), out="plain")
    assert plain.report["metrics"] == ran.report["metrics"]
    assert not (plain.folder / "timing.json").exists()
    bad = run(slow.assign(latency_ms=[0.0, *[30.0] * 59]), out="bad")
    assert (bad.code, "mine.parquet: clip 'c000' has latency_ms 0.0" in bad.err) == (2, True)


def test_times_are_those_of_the_detector_whose_name_stands_beside_them(run):
    mine = scores(60, detector="adapter")
    other = scores(60, draw=1, detector="adapter", latency_ms=5.0)
    ran = run(mine, "--against", "other.parquet", other=other)
    assert set(json.loads((ran.folder / "timing.json").read_text())) == {"other: adapter"}
    assert {"adapter", "other: adapter"} == set(ran.report["detectors"])


@pytest.mark.slow
def test_no_torch_is_loaded_no_network_asked_and_no_file_left_elsewhere(tmp_path):
    """Its point metrics are `evaluate`'s, which imports transformers, and with it torch, wherever it can."""
    scores(60).to_parquet(tmp_path / "t.parquet")
    program = f"""
import atexit, socket, sys
def refuse(*arguments, **keywords): raise OSError("a report asked the network")
socket.socket.connect = socket.create_connection = refuse
from flows.cli import main
atexit.register(lambda: print(sorted({{"torch", "transformers", "prefect"}} & set(sys.modules))))
sys.argv[1:] = ["report", {str(tmp_path / "t.parquet")!r}, "--out", {str(tmp_path / "o")!r}, "--n-boot", "9"]
main()
"""
    home = tmp_path / "home"
    environment = {**os.environ, "HOME": str(home), "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
    assert [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in str(path)] == []


@pytest.mark.slow
def test_csv_is_read_as_the_same_table(run, tmp_path):
    table = scores(60).assign(clip_id=[f"{i:03d}" for i in range(60)])
    table.to_csv("mine.csv", index=False)
    one, other = run("mine.csv", out="csv").report, run(table, out="parquet").report
    assert (one["metrics"], one["errors"]) == (other["metrics"], other["errors"])
    assert {clip["clip_id"] for clip in one["errors"]["missed"]} <= set(table["clip_id"]), "leading zeros are kept"


def test_csv_keeps_ids_that_look_like_nothing_and_any_case_of_its_suffix(run):
    names = ["NA", "None", "null", "nan"]
    table = scores(60).assign(snr_db=np.resize([None, -5.0], 60), prediction=None)
    table["clip_id"] = names + table["clip_id"].tolist()[4:]
    table["group_id"] = table["group_id"].replace({"S0": "NA", "N1": "null"})
    table["prediction"] = np.where(table["p_speech"] >= 0.5, *CLASSES)
    table.loc[[5, 6], "prediction"] = None
    table.to_csv("mine.CSV", index=False)
    dev_of(table.drop(columns="prediction")).to_csv("dev.CSV", index=False, na_rep="nan")
    one = run("mine.CSV", "--dev", "dev.CSV", out="csv").report
    other = run(table, "--dev", "dev.CSV", out="parquet").report
    assert (one["metrics"], one["test"], one["by"]) == (other["metrics"], other["test"], other["by"])


def test_a_named_index_is_a_column(run, tmp_path):
    table = scores(60)
    table.set_index("clip_id").to_parquet(tmp_path / "indexed.parquet")
    assert run("indexed.parquet", out="i").report["test"] == run(table).report["test"]


@pytest.mark.slow
def test_other_class_names_name_the_metrics(run):
    table = scores(60).replace({"label": {"SPEECH": "Music", "NONSPEECH": "Other"}})
    report = run(table, "--classes", "Music,Other").report
    assert {"recall_music", "recall_other"} <= set(report["metrics"])
    assert report["metrics"] | {"x": 0} != run(table, "--classes", "Other,Music", out="o").report["metrics"]


@pytest.mark.parametrize("classes", ["SPEECH", "A,B,C", "x,X", "A,"])
def test_classes_are_two_different_names(run, classes):
    ran = run(scores(60), "--classes", classes)
    assert ran.code == 2
    assert "give two different names" in ran.err


# --- which detector, which seeds ---------------------------------------------------------------------------------


def several(*names: str) -> pd.DataFrame:
    return pd.concat([scores(120, draw=i, detector=name) for i, name in enumerate(names)], ignore_index=True)


@pytest.mark.slow
def test_one_of_several_detectors_is_named_or_asked_for(run):
    ran = run(several("silero", "webrtc"))
    assert ran.code == 2
    assert "['silero', 'webrtc']: name the one to report on (--detector)" in ran.err
    assert not ran.folder.exists()
    assert run(several("silero", "webrtc"), "--detector", "webrtc").report["detector"] == "webrtc"
    assert run(several("silero", "adapter"), out="o").report["detector"] == "adapter"
    assert "no test rows of the detector 'vad'; the table has" in run(several("a", "b"), "--detector", "vad").err


@pytest.mark.slow
def test_seeds_are_pooled_with_their_groups_and_listed_one_by_one(run):
    each = {seed: scores(120, skill=skill, draw=seed) for seed, skill in ((1, 0.4), (2, 1.0), (3, 1.6))}
    table = pd.concat([one.assign(seed=seed) for seed, one in each.items()], ignore_index=True)
    report = run(table).report
    alone = {seed: run(one, out=f"s{seed}").report["metrics"]["accuracy"] for seed, one in each.items()}
    assert [one["seed"] for one in report["seeds"]] == [1, 2, 3]
    assert [one["metrics"]["accuracy"]["value"] for one in report["seeds"]] == [one["value"] for one in alone.values()]
    pooled = report["metrics"]["accuracy"]
    assert pooled["value"] == pytest.approx(np.mean([one["value"] for one in alone.values()]))
    assert (report["seed"], report["n"]["clips"], report["n"]["groups"]) == (None, 120, 12)
    assert report["errors"]["answers"] == 360
    width = pooled["ci95"][1] - pooled["ci95"][0]
    naive = binomial_interval(round(pooled["value"] * 360), 360)
    copies = pd.concat([each[2].assign(seed=seed) for seed in (1, 2, 3)], ignore_index=True)
    same = run(copies, out="copies").report["metrics"]["accuracy"]["ci95"]
    assert same == pytest.approx(alone[2]["ci95"]), "three copies of a seed tell no more than one"
    assert width > 0.5 * (naive.high - naive.low)


@pytest.mark.slow
def test_several_seeds_have_an_interval_but_no_mcnemar(run):
    mine = pd.concat([scores(120, 2.0, draw=i, seed=i) for i in (1, 2)], ignore_index=True)
    compared = run(mine, "--against", "other.parquet", other=scores(120, 0.2, draw=9)).report["comparisons"]["other"]
    assert compared["p_exact"] is compared["p_holm"] is None
    assert compared["needed"]["reason"].startswith("clips were answered under several seeds")
    assert compared["verdict"] == "better"
    assert compared["n"] == 120


# --- against others ----------------------------------------------------------------------------------------------


def against(run, mine: pd.DataFrame, other: pd.DataFrame, *options: str) -> tuple[dict[str, Any], Ran]:
    ran = run(mine, "--against", "other.parquet", *options, other=other)
    return ran.report["comparisons"]["other"], ran


def test_95_against_92_of_96_is_p_375_and_not_distinguishable(run):
    mine, theirs = [1] * 96, [1] * 96
    mine[0] = 0
    for wrong in (10, 21, 32, 43):
        theirs[wrong] = 0
    compared, ran = against(run, decisions(mine, groups=24), decisions(theirs, groups=24))
    assert (compared["b"], compared["c"], compared["p_exact"]) == (4, 1, 0.375)
    assert compared["p_midp"] == pytest.approx(0.375 - 5 / 32)
    assert compared["p_holm"] == 0.375
    assert compared["verdict"] == "not distinguishable"
    assert ran.report["beats"] == {"other": "undecided"}
    effect = compared["needed"]["design_effect"]
    assert compared["needed"]["clips"] == mcnemar_sample_size(3 / 96, 5 / 96, design_effect=effect) > 96
    assert "not distinguishable; some" in ran.out


@pytest.mark.usefixtures("page")
def test_19_against_20_of_24_with_one_speech_group_states_values_and_no_interval(run):
    mine, theirs = [1] * 24, [1] * 24
    for wrong in (0, 1, 3, 5, 7):
        mine[wrong] = 0
    for wrong in (0, 1, 3, 9):
        theirs[wrong] = 0
    tables = [decisions(right, groups=4) for right in (mine, theirs)]
    for table in tables:
        table.loc[table["label"] == "SPEECH", "group_id"] = "the only voice"
    compared, ran = against(run, *tables)
    assert ran.report["metrics"]["accuracy"]["value"] == 19 / 24
    assert ran.report["metrics"]["accuracy"]["ci95"] is None
    assert ran.report["metrics"]["accuracy"]["reason"] == "fewer than 2 groups in SPEECH: no interval"
    assert (compared["b"], compared["c"], compared["ci95"]) == (1, 2, None)
    assert compared["verdict"] == "not distinguishable"
    needed = compared["needed"]
    effect = needed["design_effect"]
    assert needed["clips"] == mcnemar_sample_size(-1 / 24, 3 / 24, design_effect=effect) > 24
    assert needed["groups"] == np.ceil(needed["clips"] * 5 / 24)
    assert "is not shown to beat the detector other" in ran.out
    assert "no interval" in (ran.folder / "report.html").read_text()


def test_a_long_report_says_how_far_it_has_come(run, monkeypatch):
    monkeypatch.setattr(pace, "EVERY_S", 0.0)
    _, ran = against(run, decisions([1, 0] * 12), decisions([1, 1, 0, 1] * 6))
    told = [line for line in ran.err.splitlines() if line.startswith("report: ")]
    assert told == ["report: mine against the others", "report: detector 1/2, mine", "report: detector 2/2, other"]


def test_shared_and_lone_errors_are_counted(run):
    mine, theirs = [0] * 6 + [1] * 54, [0] * 3 + [1] * 51 + [0] * 6
    compared, _ = against(run, decisions(mine), decisions(theirs))
    assert compared["overlap"] == {
        "both_right": 48, "only_this_right": 6, "only_other_right": 3, "both_wrong": 3, "jaccard": 3 / 12,
    }  # fmt: skip


def test_tables_over_different_clips_pair_where_they_can_and_say_how_many(run):
    mine, theirs = scores(240), scores(240, 0.2, draw=5)
    theirs = theirs.iloc[60:].reset_index(drop=True)
    theirs.loc[:29, "clip_id"] = [f"x{i}" for i in range(30)]
    compared, ran = against(run, mine, theirs)
    assert (compared["n"], compared["n_this"], compared["n_other"]) == (150, 240, 180)
    assert "mine and other have 150 clips in common, of 240 and 180: they are compared on those alone." in ran.out
    assert ran.report["detectors"]["other"]["n"]["clips"] == 150
    assert ran.report["n"]["clips"] == 240
    on_pairs = mine[mine["clip_id"].isin(theirs["clip_id"])]
    right = (on_pairs["p_speech"] >= 0.5) == (on_pairs["label"] == "SPEECH")
    assert compared["value"] == pytest.approx(right.groupby(on_pairs["label"]).mean().mean())


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("clip_id", None, "none of the 60 test clips of 'mine' is among the 60 of 'other'"),
        ("label", "NONSPEECH", "clip 'c004' has label 'SPEECH' with 'mine' and 'NONSPEECH' with 'other'; 1 clips"),
        ("group_id", "elsewhere", "clip 'c004' has group_id 'S2' with 'mine' and 'elsewhere' with 'other'"),
    ],
)
def test_a_comparison_over_other_clips_labels_or_groups_is_refused(run, column, value, said):
    other = scores(60)
    if value is None:
        other["clip_id"] = "x" + other["clip_id"]
    else:
        other.loc[4, column] = value
    ran = run(scores(60), "--against", "other.parquet", other=other)
    assert ran.code == 2
    assert said in ran.err
    assert not ran.folder.exists()


@pytest.mark.usefixtures("page")
def test_only_the_level_that_differs_is_said_to_differ(run):
    table = scores(240, 3.0, groups=12)
    worse = table.copy()
    short = worse["duration_ms"] == 20
    worse.loc[short, "p_speech"] = np.random.default_rng(3).uniform(size=short.sum())
    compared, ran = against(run, table, worse)
    assert {level: at["verdict"] for level, at in compared["by"]["duration_ms"].items()} == {
        "20": "better", "200": "not distinguishable", "1000": "not distinguishable",
    }  # fmt: skip
    at = compared["by"]["duration_ms"]["20"]
    assert at["p_holm"] == pytest.approx(min(1, 3 * at["p_exact"]))
    assert compared["by"]["family"]["voice"]["statistic"] == "accuracy"
    assert "By level: mine minus other" in (ran.folder / "report.html").read_text()


@pytest.mark.slow
def test_holm_is_over_all_comparisons_shown(run):
    names = {"a": 0.9, "b": 0.6, "c": 0.2}
    others = {name: scores(240, skill, draw=i) for i, (name, skill) in enumerate(names.items(), 1)}
    options = [part for name in others for part in ("--against", f"{name}.parquet")]
    found = run(scores(240, 1.2), *options, **others).report["comparisons"]
    raw = sorted(one["p_exact"] for one in found.values())
    expected = np.minimum(np.maximum.accumulate(np.array(raw) * [3, 2, 1]), 1)
    assert sorted(one["p_holm"] for one in found.values()) == pytest.approx(expected.tolist())


@pytest.mark.slow
def test_detectors_of_one_name_are_told_apart_by_their_tables(run, tmp_path):
    mine, other = scores(60, detector="adapter"), scores(60, 0.5, draw=3, detector="adapter")
    ran = run(mine, "--against", "other.parquet", other=other)
    assert set(ran.report["comparisons"]) == {"other: adapter"}
    (tmp_path / "sub").mkdir()
    other.to_parquet(tmp_path / "sub" / "mine.parquet")
    again = run(mine, "--against", str(Path("sub") / "mine.parquet"), out="o")
    assert set(again.report["comparisons"]) == {f"{Path('sub') / 'mine.parquet'}: adapter"}
    twice = run(mine, "--against", "other.parquet", "--against", "other.parquet", out="t")
    assert (twice.code, "twice" in twice.err) == (2, True)


@pytest.mark.usefixtures("figures", "page")
@pytest.mark.slow
def test_another_table_may_know_conditions_that_ones_own_does_not(run):
    full = scores(360, groups=10, snr_db=np.resize(np.repeat([-5.0, 0.0, 10.0, 20.0], 2), 360)).drop(
        columns=["family", "phoneme"]
    )
    bare = full[["clip_id", "group_id", "label", "p_speech"]]
    ran = run(bare, "--against", "full.parquet", full=full)
    assert ran.report["psychometric"] is None
    assert ran.report["absent"]["psychometric"] == "no clip has a duration or an SNR"
    assert ran.report["detectors"]["full"]["psychometric"]["duration_ms"] is not None
    drawn = {path.stem for path in (ran.folder / "figures").iterdir()}
    assert {"psychometric_duration_ms", "snr75_by_duration"} <= drawn
    assert "psychometric_snr_by_duration" not in drawn, "the headline has no curve"
    assert "no clip has a duration or an SNR" in (ran.folder / "report.html").read_text()


# --- dev ---------------------------------------------------------------------------------------------------------


def test_threshold_and_temperature_come_from_dev_alone(run):
    test, dev = scores(240, draw=1), dev_of(scores(240, draw=2))
    test["p_speech"], dev["p_speech"] = (expit(3 * logit(t["p_speech"]) - 2) for t in (test, dev))
    report = run(test, "--dev", "dev.parquet", dev=dev).report
    positive = dev["label"] == "SPEECH"
    chosen = choose_threshold(dev["p_speech"], positive)
    warmth = fit_temperature(logit(dev["p_speech"]), positive)
    fitted = report["calibration"]["dev"]["folds"]["0"]
    assert report["threshold"] == {
        "value": chosen.value,
        "chosen_on": "dev",
        "by_fold": {"0": chosen.value},
        "flags": {},
    }
    assert (fitted["threshold"], fitted["temperature"]) == (chosen.value, pytest.approx(warmth.value))
    raw, calibrated = (report["calibration"]["dev"][which] for which in ("raw", "calibrated"))
    softer = expit(logit(test["p_speech"]) / warmth.value)
    truth = (test["label"] == "SPEECH").astype(float)
    assert raw["brier"]["value"] == pytest.approx(((test["p_speech"] - truth) ** 2).mean())
    assert calibrated["brier"]["value"] == pytest.approx(((softer - truth) ** 2).mean())
    right = ((test["p_speech"] >= chosen.value) == (truth == 1)).mean()
    assert calibrated["accuracy"]["value"] == report["metrics"]["accuracy"]["value"] == pytest.approx(right)
    assert raw["accuracy"]["value"] == pytest.approx(((test["p_speech"] >= 0.5) == (truth == 1)).mean())
    shuffled = test.assign(p_speech=test["p_speech"].to_numpy()[::-1])
    again = run(shuffled, "--dev", "dev.parquet", out="o").report
    assert again["calibration"]["dev"]["folds"] == report["calibration"]["dev"]["folds"]


def test_dev_rows_of_the_table_itself_are_fitted_on_where_it_is_given_as_dev(run):
    test, dev = scores(240, draw=1, split="test"), dev_of(scores(240, draw=2), split="dev")
    both = pd.concat([test, dev], ignore_index=True)
    apart = run(test, "--dev", "dev.parquet", dev=dev, out="apart").report
    together = run(both, "--dev", "mine.parquet", out="together").report
    assert together["threshold"] == apart["threshold"]
    assert together["calibration"] == apart["calibration"]
    fixed = run(both, out="fixed").report
    assert (fixed["threshold"]["chosen_on"], fixed["threshold"]["value"]) == ("fixed", 0.5)
    assert fixed["calibration"] == apart["calibration"], "what dev would give is stated all the same"


@pytest.mark.parametrize(
    ("scored", "flag", "said"),
    [
        (
            lambda dev: np.where(dev["label"] == "SPEECH", 0.9, 0.2),
            "separable",
            "separates the classes without a mistake",
        ),
        (lambda dev: 1 - dev["p_speech"], "inverted", "scores the classes the wrong way round"),
        (lambda dev: 0.7, "constant", "gives one score to every dev clip"),
    ],
)
def test_a_dev_set_that_decides_nothing_is_flagged(run, scored, flag, said):
    dev = dev_of(scores(240, draw=2))
    ran = run(scores(240), "--dev", "dev.parquet", dev=dev.assign(p_speech=scored(dev)))
    assert ran.report["threshold"]["flags"] == {"0": flag}
    assert f"mine, on dev, {said}" in ran.out
    fitted = ran.report["calibration"]["dev"]
    if flag == "constant":
        assert (ran.report["threshold"]["value"], fitted["folds"], fitted["calibrated"]) == (0.5, {}, None)
    else:
        assert fitted["folds"]["0"]["threshold_flag"] == fitted["folds"]["0"]["temperature_flag"] == flag


def test_a_detector_that_always_answers_alike_is_at_chance_and_says_so(run):
    ran = run(scores(240).assign(p_speech=0.8))
    stated = ran.report["metrics"]["balanced_accuracy"]
    assert (stated["value"], stated["ci95"]) == (0.5, None)
    assert "the same answer for every clip" in ran.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dev, test: test, "stand in dev and in test"),
        (lambda dev, test: dev.assign(split="test"), "every row is of split 'test'"),
        (lambda dev, test: dev.assign(detector="another"), "the dev table has no rows of 'mine', only of ['another']"),
        (lambda dev, test: dev[dev["label"] == "SPEECH"], "needs dev rows of both classes"),
        (
            lambda dev, test: dev.assign(p_speech=None, prediction="SPEECH"),
            "needs dev rows of both classes, with p_speech",
        ),
        (lambda dev, test: dev.assign(fold=3), "needs dev rows of both classes, with p_speech, in every fold"),
    ],
)
def test_dev_rows_that_cannot_serve_are_refused(run, change, said):
    test = scores(120)
    ran = run(test, "--dev", "dev.parquet", dev=change(dev_of(scores(120, draw=2)), test))
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not ran.folder.exists()


def test_decisions_without_scores_take_no_threshold_from_dev(run):
    ran = run(decisions([1, 0, 1] * 20), "--dev", "dev.parquet", dev=dev_of(scores(120)))
    assert (ran.code, "gives no p_speech on test" in ran.err) == (2, True)


# --- errors ------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_table(run):
    table = scores(240, 0.7)
    table["prediction"] = np.where(table["p_speech"] >= 0.5, *CLASSES)
    table.loc[[0, 1], "prediction"] = None
    errors = run(table, "--by", "phoneme").report["errors"]
    wrong = table["prediction"].fillna("") != table["label"]
    speech = table["label"] == "SPEECH"
    assert (errors["wrong"], errors["answers"]) == (wrong.sum(), 240)
    assert errors["n_missed"] == (wrong & speech).sum()
    assert errors["n_false_alarms"] == (wrong & ~speech).sum() - 1, "clip 1 is unanswered, which alarms nobody"
    for factor in ("phoneme", "family", "group_id", "duration_ms"):
        rates = {level: at["rate"] for level, at in errors["by"][factor].items()}
        names = table[factor] if factor != "duration_ms" else table[factor].map("{:g}".format)
        assert rates == pytest.approx(wrong.groupby(names).mean().to_dict())
    rain = (table["family"] == "rain") & (table["prediction"] == "SPEECH")
    assert errors["false_alarms_by_family"]["rain"]["false_alarms"] == rain.sum()
    assert set(errors["false_alarms_by_family"]) == {"music", "rain"}
    assert errors["worst_groups"][0]["rate"] == max(wrong.groupby(table["group_id"]).mean())
    surest = [clip["p_speech"] for clip in errors["missed"]]
    assert surest == sorted(surest)
    assert errors["missed"][0]["factors"].keys() == {"duration_ms", "family", "phoneme"}


@pytest.mark.usefixtures("page")
def test_long_lists_of_errors_are_capped_and_say_of_how_many(run):
    ran = run(decisions([0] * 500, groups=20))
    errors = ran.report["errors"]
    assert (len(errors["missed"]), errors["n_missed"]) == (200, 250)
    assert "250 SPEECH clips missed, the surest 200" in (ran.folder / "report.html").read_text()


def dataset(folder: Path, clips: list[str], seconds: float = 0.2) -> Path:
    """Parquet files of clips: clip_id, and audio as `datasets` keeps it."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, int(16_000 * seconds))
    flac = encode_flac(noise)
    rows = [{"clip_id": clip, "audio": {"bytes": flac, "path": f"{clip}.flac"}} for clip in clips]
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "test.parquet")
    return folder


@pytest.mark.usefixtures("page")
def test_wrong_clips_are_heard_as_they_are_with_a_picture_of_each(run, tmp_path):
    table = decisions([0, 0, 0, 1] * 6)
    folder = dataset(tmp_path / "clips", table["clip_id"].tolist())
    ran = run(table, "--audio", str(folder))
    page = (ran.folder / "report.html").read_text()
    assert page.count("<audio") == page.count('class="sound"') == ran.report["errors"]["wrong"] == 18
    assert "18 of these clips can be heard here" in page
    import base64

    flac = pq.read_table(folder / "data" / "test.parquet").to_pylist()[0]["audio"]["bytes"]
    assert base64.b64encode(flac).decode() in page


@pytest.mark.usefixtures("page")
def test_the_page_stays_under_5_mb_however_many_clips_are_wrong(run, tmp_path):
    table = decisions([0] * 80)
    ran = run(table, "--audio", str(dataset(tmp_path / "clips", table["clip_id"].tolist(), seconds=3)))
    page = (ran.folder / "report.html").read_bytes()
    assert 4_000_000 < len(page) <= 5_000_000
    assert 10 < page.count(b"<audio") < 60


def test_a_detector_without_a_mistake_needs_no_audio(run, tmp_path):
    table = decisions([1] * 24)
    ran = run(table, "--audio", str(dataset(tmp_path / "clips", table["clip_id"].tolist())))
    assert ran.report["errors"]["wrong"] == 0


def test_clips_of_a_data_set_are_found_by_id_whatever_its_type(run, tmp_path):
    table = decisions([0, 1] * 12).assign(clip_id=range(24))
    folder = dataset(tmp_path / "clips", list(range(24)))
    assert run(table, "--audio", str(folder)).code == 0


def test_a_data_set_without_these_clips_or_with_other_audio_is_refused(run, tmp_path):
    table = decisions([0, 1] * 12)
    ran = run(table, "--audio", str(dataset(tmp_path / "clips", ["x", "y"])))
    assert (ran.code, "none of the 12 clips to hear" in ran.err) == (2, True)
    assert not ran.folder.exists()
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((800, 2)), 8000, format="FLAC")
    rows = [{"clip_id": clip, "audio": {"bytes": buffer.getvalue(), "path": None}} for clip in table["clip_id"]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "other.parquet")
    ran = run(table, "--audio", str(tmp_path / "other.parquet"))
    assert (ran.code, "clip 'c000': the FLAC has 8000 Hz" in ran.err) == (2, True)
    rows = [{"clip_id": clip, "audio": {"bytes": None, "path": "elsewhere.flac"}} for clip in table["clip_id"]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "paths.parquet")
    ran = run(table, "--audio", str(tmp_path / "paths.parquet"))
    assert (ran.code, "clip 'c000' has no encoded audio" in ran.err) == (2, True)
    (tmp_path / "text").write_text("no parquet")
    assert "text is not readable as parquet" in run(table, "--audio", str(tmp_path / "text")).err


# --- little to go by ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("page")
def test_one_class_has_values_and_reasons(run):
    table = scores(60)
    ran = run(table[table["label"] == "SPEECH"], "--against", "other.parquet", other=scores(60, 0.1, draw=2))
    report = ran.report
    assert report["metrics"]["balanced_accuracy"] == {
        "value": None, "ci95": None, "method": None, "reason": "no NONSPEECH clips here", "ci95_supergroup": None,
        "reason_supergroup": None,
    }  # fmt: skip
    assert report["metrics"]["recall_speech"]["ci95"] is not None
    assert report["comparisons"]["other"]["statistic"] == "accuracy"
    assert report["comparisons"]["other"]["n"] == 30
    assert "has no balanced accuracy: no NONSPEECH clips here" in (ran.folder / "report.html").read_text()


def test_one_group_a_class_has_values_and_no_interval(run):
    report = run(scores(60, groups=1)).report
    stated = [metric for name, metric in report["metrics"].items() if metric["value"] is not None]
    assert len(stated) > 12
    assert {metric["ci95"] for metric in stated} == {None}
    assert all(metric["reason"] for metric in stated)


def test_one_clip_a_class_is_a_report(run):
    assert run(scores(6).iloc[:2]).report["n"]["clips"] == 2


# --- bad input ---------------------------------------------------------------------------------------------------


def spoiled(column: str, value: object, row: int = 7) -> pd.DataFrame:
    table = scores(60).astype({column: object} if column in scores(6) else {})
    table.loc[row, column] = value
    return table


BAD = {
    "a key that repeats": (pd.concat([scores(60), scores(60).iloc[[7]]]), "row 60 (clip 'c007'): the clip stands twice"),
    "p above 1": (spoiled("p_speech", 1.5), "row 7 (clip 'c007'): p_speech is no number in [0, 1], it is 1.5"),
    "p below 0": (spoiled("p_speech", -0.1), "row 7 (clip 'c007'): p_speech is no number in [0, 1], it is -0.1"),
    "p infinite": (spoiled("p_speech", float("inf")), "row 7 (clip 'c007'): p_speech is no number in [0, 1]"),
    "p null": (spoiled("p_speech", None), "row 7 (clip 'c007'): p_speech is null or NaN"),
    "p null beside an answer": (
        scores(60).assign(prediction="SPEECH").pipe(lambda t: t.assign(p_speech=t["p_speech"].where(t.index != 7))),
        "row 7 (clip 'c007'): p_speech is null or NaN beside an answer",
    ),
    "another label": (spoiled("label", "MUSIC"), "row 7 (clip 'c007'): label is none of the classes"),
    "another answer": (
        scores(60).assign(prediction=["A", *["SPEECH"] * 59]), "row 0 (clip 'c000'): prediction is none of the classes",
    ),
    "no label": (spoiled("label", None), "row 7 (clip 'c007'): label is null"),
    "no group": (spoiled("group_id", None), "row 7 (clip 'c007'): group_id is null"),
    "no rows": (scores(60).iloc[:0], "has no rows"),
    "no group column": (scores(60).drop(columns="group_id"), "has no column 'group_id'"),
    "no clip column": (scores(60).drop(columns="clip_id"), "has no column 'clip_id'"),
    "no answers": (scores(60).drop(columns="p_speech"), "neither p_speech nor prediction"),
    "a split of another name": (scores(60).assign(split="val"), "split is none of ['dev', 'test'], it is 'val'; 60 rows"),
    "dev rows only": (scores(60).assign(split="dev"), "mine.parquet: the predictions table has no test rows"),
    "a seed of words": (scores(60).assign(seed="first"), "seed is no whole number, it is 'first'"),
    "a fold and a half": (scores(60).assign(fold=1.5), "fold is no whole number, it is 1.5"),
    "no duration": (scores(60).assign(duration_ms=0.0), "duration_ms is no finite number above 0"),
    "an infinite SNR": (scores(60).assign(snr_db=np.inf), "snr_db is no finite number in dB; leave it null"),
    "an SNR of words": (scores(60).assign(snr_db="loud"), "snr_db is no finite number in dB"),
    "two prompts": (
        pd.concat([scores(60, prompt="one?"), scores(60, prompt="two?")]), "has 2 prompts among its test rows",
    ),
    "other clips": (
        pd.concat([scores(60, detector="adapter"), scores(54, detector="base")]), "score every detector on the whole",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("table", "said"), BAD.values(), ids=BAD)
def test_a_table_that_cannot_be_trusted_is_refused_with_the_row_or_the_count(run, table, said):
    ran = run(table)
    assert ran.code == 2
    assert ran.err.startswith("earshot: mine.parquet: ") or "test clips" in ran.err or "prompts" in ran.err, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not ran.folder.exists()


@pytest.mark.parametrize("how", ["predictions", "against", "dev"])
def test_a_bad_table_is_refused_wherever_it_is_given(run, how):
    bad = spoiled("p_speech", 1.5)
    ran = run(bad) if how == "predictions" else run(scores(60), f"--{how}", "bad.parquet", bad=bad)
    assert (ran.code, ".parquet: predictions row 7 (clip 'c007')" in ran.err) == (2, True)


def test_a_file_that_is_none_is_refused(run, tmp_path):
    Path("text.parquet").write_text("clip_id,label\n")
    Path("empty.csv").write_text("")
    Path("folder").mkdir()
    scores(600).to_parquet("damaged.parquet", index=False)
    content = bytearray(Path("damaged.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    Path("damaged.parquet").write_bytes(content)
    for name, said in (
        ("nowhere.parquet", "there is no file nowhere.parquet"),
        ("text.parquet", "text.parquet is not readable as parquet"),
        ("damaged.parquet", "damaged.parquet is not readable as parquet"),
        ("empty.csv", "empty.csv is not readable as csv"),
        ("folder", "folder is no file: give the predictions table itself"),
    ):
        ran = run(name)
        assert (ran.code, said in ran.err) == (2, True), ran.err


def test_columns_to_report_by_are_there_and_have_a_sensible_number_of_levels(run):
    table = scores(1200, groups=20).assign(score_again=np.linspace(0, 1, 1200))
    ran = run(table, "--by", "mood")
    assert (ran.code, "no column 'mood' to report by; the table has ['clip_id'" in ran.err) == (2, True)
    ran = run(table, "--by", "score_again")
    assert (ran.code, "score_again has 1,200 levels, at most 500" in ran.err) == (2, True)
    ran = run(table.rename(columns={"score_again": "category"}))  # nobody asked for it
    assert (ran.code, "category" in ran.report["by"]) == (0, False)


def test_levels_that_look_alike_stay_apart(run):
    levels = [1_000_000.1, 1_000_000.2, 1_000_001.0, None]
    table = (
        scores(240).assign(frequency_hz=np.resize(np.array(levels, dtype=object), 240)).astype({"frequency_hz": float})
    )
    by = run(table, "--by", "frequency_hz").report["by"]["frequency_hz"]
    assert {level: at["clips"] for level, at in by.items()} == {
        "1000000.1": 60, "1000000.2": 60, "1000001": 60, "none": 60,
    }  # fmt: skip


# --- the folder --------------------------------------------------------------------------------------------------


def test_an_earlier_report_is_replaced_and_anything_else_is_left_alone(run, tmp_path):
    first = run(decisions([1, 0] * 12))
    (first.folder / "figures").mkdir()
    (first.folder / "figures" / "old.png").write_bytes(b"")
    second = run(decisions([1, 1, 0] * 8))
    assert second.report["metrics"] != {}
    assert not (first.folder / "figures" / "old.png").exists(), "nothing of the earlier report is left"
    (first.folder / "notes.txt").write_text("mine")
    third = run(decisions([0] * 12))
    assert (third.code, "holds 'notes.txt', which is no part of a report" in third.err) == (2, True)
    assert json.loads((first.folder / "report.json").read_text()) == second.report
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "report.json").write_text("{}")
    fourth = run(decisions([1, 0] * 12), out="theirs")
    assert (fourth.code, "holds no report of ours" in fourth.err) == (2, True)
    (tmp_path / "file").write_text("")
    assert "is a file: give a folder" in run(decisions([1, 0] * 12), out="file").err


def test_an_empty_folder_and_a_new_one_deep_down_are_taken(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(decisions([1, 0] * 12), out="empty").report["schema"] == 1
    assert run(decisions([1, 0] * 12), out="a/b/c").report["schema"] == 1


def test_a_report_that_fails_in_the_writing_leaves_what_was_there(run, tmp_path, monkeypatch):
    first = run(decisions([1, 0] * 12)).report
    written = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "report.html":
            raise OSError(28, "No space left on device", str(path))
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(decisions([0] * 12)).code == 2
    assert run(decisions([0] * 12), out="new").code == 2
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.parquet", "out"]


@pytest.mark.usefixtures("figures", "page")
@pytest.mark.slow
def test_the_same_call_writes_the_same_bytes(run):
    one, other = run(scores(60), out="one"), run(scores(60), out="other")
    names = sorted(path.relative_to(one.folder) for path in one.folder.rglob("*.*"))
    assert len(names) > 8
    for name in names:
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
