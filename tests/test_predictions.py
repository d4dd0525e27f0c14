"""Predictions are one table for every detector; two ways of asking a model must agree on the whole test split."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.schema import CheckFailed
from tasks.audio_files import encode_flac, samples_of
from tasks.detectors import audio_llm
from tasks.functional.predictions import validate_predictions
from tasks.functional.timing import TIMED
from tasks.models.listening import sample
from tasks.predictions import (
    CLIP_COLUMNS,
    EXACT,
    ROUNDED,
    check_agreement,
    chosen_clips,
    save,
    score_baseline,
    score_no_audio,
    scored,
)
from tasks.store import Predictions, Splits, draft, read_timing

CLASSES = ("SPEECH", "NONSPEECH")
SIDES = {"train": "train", "dev": "dev", "test": "test"}
CLIPS = {"train": 16, "dev": 6, "test": 8}


@pytest.fixture
def splits(home):
    return write_splits("clean")


def write_splits(verdict: str) -> Splits:
    """Low tones are SPEECH, high ones NONSPEECH; levels say nothing."""
    random = np.random.default_rng(3)
    with draft(Splits) as folder:
        (folder / "data").mkdir()
        for part, n in CLIPS.items():
            rows = []
            for i in range(n):
                label = CLASSES[i % 2]
                pitch_hz = (300 if label == "SPEECH" else 2500) * random.uniform(0.9, 1.1)
                samples = 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(1600) / 16_000) + random.normal(0, 0.01, 1600)
                text = {name: f"{part}-{name}-{i}" for name in CLIP_COLUMNS if name not in ("duration_ms", "snr_db")}
                rows.append({**text, "label": label, "duration_ms": 100.0, "snr_db": None if i % 3 else 20.0,
                             "audio": {"bytes": encode_flac(samples), "path": f"{i}.flac"}})  # fmt: skip
            pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{part}.parquet")
        return Splits.of(folder, clips=CLIPS, groups={}, verdict=verdict, folds=1)


def table_of(predictions) -> pd.DataFrame:
    return pd.read_parquet(predictions.path / "predictions.parquet")


# --- agreement ---------------------------------------------------------------------------------------------------


def scores(p_forward, p_said, said=None) -> pd.DataFrame:
    """Forward on dev and test, generation on test."""
    rows = []
    for method, ps in (("forward", p_forward), ("generate", p_said)):
        for i, p in enumerate(ps):
            prediction = CLASSES[p < 0.5] if said is None or method == "forward" else said[i]
            rows.append(
                {"clip_id": f"c{i}", "split": "test", "method": method, "p_speech": p, "prediction": prediction}
            )
    rows.append({"clip_id": "d0", "split": "dev", "method": "forward", "p_speech": 0.9, "prediction": "SPEECH"})
    return pd.DataFrame(rows)


def test_the_same_answers_within_rounding_agree():
    assert check_agreement(scores([0.1, 0.9], [0.1 + 9e-6, 0.9]), EXACT) is None


def test_a_difference_beyond_the_tolerance_fails():
    with pytest.raises(
        CheckFailed, match=r"on 2 test clips: largest difference of P 2e-05 \(allowed 1e-05\), .*, 0 other"
    ):
        check_agreement(scores([0.1, 0.9], [0.1, 0.9 + 2e-5]), EXACT)


def test_another_answer_fails_even_where_the_probabilities_are_equal():
    with pytest.raises(CheckFailed, match="1 other answers"):
        check_agreement(scores([0.1, 0.9], [0.1, 0.9], said=["NONSPEECH", "NONSPEECH"]), EXACT)


def test_a_flip_at_the_boundary_is_rounding_and_one_beyond_it_is_not():
    assert check_agreement(scores([0.49], [0.51]), ROUNDED) is None
    with pytest.raises(CheckFailed, match="1 other answers"):
        check_agreement(scores([0.2], [0.2], said=["SPEECH"]), ROUNDED)


def rounded(n: int, sd: float) -> pd.DataFrame:
    """n clips, all as unsure as can be, whose log odds rounding moves by so much."""
    odds = np.random.default_rng(5).normal(scale=sd, size=n)
    said = 1 / (1 + np.exp(-odds))
    return scores([0.5] * n, said, said=["SPEECH" if p >= 0.5 else "NONSPEECH" for p in said])


def test_rounding_of_very_many_clips_is_no_disagreement_and_a_small_shift_of_most_is():
    """Measured at 7 B: log odds move by .1 to .14, whose farthest of 20,000 is beyond what a few clips may move by."""
    many = rounded(20_000, 0.14)
    assert (many["p_speech"] - 0.5).abs().max() > 0.12
    assert check_agreement(many, ROUNDED) is None
    with pytest.raises(
        CheckFailed, match=r"largest difference of P 0\.\d+ \(allowed 0\.25\), root mean square 0\.1 \(0\.05\)"
    ):
        check_agreement(scores([0.6] * 50, [0.7] * 50), ROUNDED)


@pytest.mark.parametrize("drop", ["c0", "c1"])
@pytest.mark.parametrize("method", ["forward", "generate"])
def test_a_test_clip_that_was_asked_in_one_way_only_fails(drop, method):
    table = scores([0.1, 0.9], [0.1, 0.9])
    table = table[(table["clip_id"] != drop) | (table["method"] != method)]
    with pytest.raises(CheckFailed, match="1 test clips were asked in one way only"):
        check_agreement(table, EXACT)


def test_a_score_that_is_no_number_fails():
    with pytest.raises(CheckFailed, match="disagree"):
        check_agreement(scores([0.1, np.nan], [0.1, 0.9]), EXACT)


def test_nothing_to_compare_fails():
    with pytest.raises(CheckFailed, match="no test clip"):
        check_agreement(scores([], []), EXACT)


# --- baselines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["majority", "loudness", "mel_statistics"])
def test_a_baseline_scores_dev_and_test_and_never_its_training_clips(splits, name):
    predictions = score_baseline.fn(name, splits, SIDES, CLASSES, 0)
    table = table_of(predictions)
    assert predictions.rows == len(table) == CLIPS["dev"] + CLIPS["test"]
    assert table.groupby("split").size().to_dict() == {"dev": 6, "test": 8}
    assert not table["clip_id"].str.startswith("train").any()
    for part in ("dev", "test"):
        clips = pq.read_table(splits.path / "data" / f"{part}.parquet", columns=list(CLIP_COLUMNS)).to_pandas()
        found = table[table["split"] == part].reset_index(drop=True)[list(CLIP_COLUMNS)]
        pd.testing.assert_frame_equal(found, clips, check_dtype=False)
    assert (table["prediction"] == np.where(table["p_speech"] >= 0.5, *CLASSES)).all()


def test_what_a_baseline_writes_is_a_valid_table_of_its_name(splits):
    table = validate_predictions(table_of(score_baseline.fn("loudness", splits, SIDES, CLASSES, 0)), CLASSES)
    assert table["detector"].unique().tolist() == ["loudness"]
    assert table["protocol"].unique().tolist() == ["group"]
    assert table["seed"].isna().all()


def test_a_baseline_learns_from_the_training_side(splits):
    table = table_of(score_baseline.fn("mel_statistics", splits, SIDES, CLASSES, 0))
    assert (table["prediction"] == table["label"]).all(), "the pitch says the class"
    swapped = table_of(score_baseline.fn("mel_statistics", splits, SIDES, CLASSES[::-1], 0))
    np.testing.assert_allclose(swapped["p_speech"], 1 - table["p_speech"], atol=1e-6)


def test_a_fold_is_scored_by_what_the_other_parts_taught(home):
    """Parts change sides: the one that is tested is never trained on."""
    splits = write_splits("clean")
    sides = {"train": "test", "dev": "train", "test": "dev"}
    table = table_of(score_baseline.fn("majority", splits, sides, CLASSES, 2))
    assert table.groupby("split").size().to_dict() == {"dev": CLIPS["test"], "test": CLIPS["train"]}
    assert table["fold"].unique().tolist() == [2]
    assert scored(sides) == ["test", "train"]


def test_scores_of_a_leaky_split_say_so(home):
    table = table_of(score_baseline.fn("majority", write_splits("leaky"), SIDES, CLASSES, 0))
    assert table["protocol"].unique().tolist() == ["random"]


def test_the_same_splits_give_the_same_bytes(splits):
    one, other = (score_baseline.fn("mel_statistics", splits, SIDES, CLASSES, 0) for _ in range(2))
    assert one == other


# --- unheard, at liberty, in a hurry -------------------------------------------------------------------------------


def asked_model(splits, heard) -> Predictions:
    """A stored table of a model: forward on dev and test, generated and free answers on test."""
    rows = []
    for part, methods in {"dev": ["forward"], "test": ["forward", "generate", "open"]}.items():
        clips = pq.read_table(splits.path / "data" / f"{part}.parquet", columns=list(CLIP_COLUMNS)).to_pandas()
        for method in methods:
            free = method == "open"
            rows.append(clips.assign(split=part, method=method, p_speech=np.nan if free else 0.7, answer_mass=0.5,
                                     prediction=[None, *["SPEECH"] * (len(clips) - 1)] if free else "SPEECH"))  # fmt: skip
    return save(pd.concat(rows), "adapter", splits, 0, seed=42, prompt="Which?", heard=heard)


def test_without_sound_every_clip_gets_the_answer_to_the_words_alone(splits):
    asked = asked_model(splits, {"no_audio": {"p_first": 0.25}})
    table = table_of(score_no_audio.fn(asked, splits, CLASSES, 0))
    assert table["detector"].unique().tolist() == ["no_audio"]
    assert table.groupby("split").size().to_dict() == {"dev": 6, "test": 8}
    assert set(zip(table["p_speech"], table["prediction"], strict=True)) == {(0.25, "NONSPEECH")}
    assert validate_predictions(table, CLASSES)["clip_id"].nunique() == 14


def test_free_answers_are_a_detector_of_their_own_whose_missing_answers_count(splits):
    table = validate_predictions(table_of(asked_model(splits, None)), CLASSES)
    assert table.groupby("detector")["method"].unique().map(sorted).to_dict() == {
        "adapter": ["forward", "generate"], "adapter_open": ["open"],
    }  # fmt: skip
    assert table.query("detector == 'adapter_open'")["prediction"].isna().sum() == 1


def test_a_model_that_never_names_a_class_is_a_table_all_the_same(splits):
    table = table_of(asked_model(splits, None))
    silent = table.assign(prediction=table["prediction"].where(table["method"] != "open", None))
    found = validate_predictions(silent, CLASSES).query("method == 'open'")
    assert found["prediction"].isna().all()


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (4, 4), (5, 5), (99, 8)])
def test_a_quick_look_takes_so_many_clips_of_both_classes(splits, limit, expected):
    table = table_of(score_baseline.fn("loudness", splits, SIDES, CLASSES, 0, limit))
    test = table[table["split"] == "test"]
    assert len(test) == expected
    assert abs(test["label"].value_counts().reindex(list(CLASSES), fill_value=0).diff().iloc[1]) <= 1
    whole = table_of(score_baseline.fn("loudness", splits, SIDES, CLASSES, 0)).set_index("clip_id")
    pd.testing.assert_series_equal(table.set_index("clip_id")["p_speech"], whole.loc[table["clip_id"], "p_speech"])


@pytest.mark.parametrize(("limit", "most"), [(None, 100), (40, 40)])
def test_every_detector_is_timed_on_the_same_test_clips_of_all_lengths(home, monkeypatch, limit, most):
    """In the order of the rows the first 32 would be the short ones."""
    rows = {"train": [30] * 2, "dev": [30] * 2, "test": [25 + 5 * i for i in range(100)]}
    with draft(Splits) as folder:
        (folder / "data").mkdir()
        for part, lengths_ms in rows.items():
            clips = [{**dict.fromkeys(CLIP_COLUMNS), "clip_id": f"{part}{i}", "label": CLASSES[i % 2],
                      "audio": {"bytes": encode_flac(np.full(16 * ms, 0.1)), "path": ""}}
                     for i, ms in enumerate(lengths_ms)]  # fmt: skip
            pq.write_table(pa.Table.from_pylist(clips), folder / "data" / f"{part}.parquet")
        splits = Splits.of(folder, clips={}, groups={}, verdict="clean", folds=1)
    heard = []
    monkeypatch.setattr("tasks.predictions.timed", lambda detector, clips: heard.append(clips) or {})
    score_baseline.fn("majority", splits, SIDES, CLASSES, 0, limit)
    (chosen,) = heard
    asked = {*chosen_clips(splits, "test", limit)["clip_id"]}
    of_llm = sample(audio_llm.read([str(splits.path / "data" / "test.parquet")], asked).flacs, TIMED)
    assert chosen == of_llm
    assert len(asked) == most
    assert [samples_of(chosen[0]), samples_of(chosen[-1])] == [16 * 25, 16 * 520]
    assert len(chosen) == 32


def test_what_a_clip_takes_is_kept_beside_the_table_and_never_in_it(splits):
    predictions = score_baseline.fn("loudness", splits, SIDES, CLASSES, 0)
    ms = read_timing(predictions)["latency"]["ms"]
    assert 0 < ms["all"]["median"] <= ms["all"]["p95"]
    assert set(ms) == {"all", "loading", "detector"}
    assert [file.name for file in predictions.path.iterdir()] == ["predictions.parquet"]
