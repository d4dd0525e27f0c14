"""Label hygiene drops what a detector takes for the other class, says so everywhere, and refuses to leave nothing."""

import os
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.demands import demand_extras
from flows.plan_study import plan_study
from recipes.data import HygieneBlock
from recipes.schema import CheckFailed, load_study
from recipes.sources import EspeakSource, SyntheticSource, TableSource
from tasks import detectors, hub
from tasks.audio_files import read_clip
from tasks.functional.audio import activity
from tasks.functional.hygiene import count_kept, judge, speech_share
from tasks.hygiene import judge_labels, measure_speech, share_of_speech
from tasks.recordings import deal_sides, gather_recordings
from tasks.store import Hygiene, SpeechShares, draft, read_json
from tasks.verification import verify_repo
from tests.building import build

CLASSES = ("SPEECH", "NONSPEECH")
# The harmonic sounds that stand for speech in study/smoke: WebRTC hears a voice in most of each, in a few it does not.
BY_WEBRTC = ["dataset.hygiene={detector: webrtc, least_speech: 0.75, most_nonspeech: 1}"]


@pytest.fixture(scope="module")
def vad() -> None:
    pytest.importorskip("webrtcvad", reason="needs the extra vad: pip install -c constraints.txt -e '.[vad]'")
    pytest.importorskip("onnxruntime", reason="needs the extra vad: pip install -c constraints.txt -e '.[vad]'")


def hiss(ms: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, round(16 * ms)).astype(np.float32)


def spoken() -> np.ndarray:
    pytest.importorskip("espeakng_loader", reason="needs the extra demo: pip install -c constraints.txt -e '.[demo]'")
    from tasks.sources import espeak

    block = EspeakSource(kind="espeak", voices=2, utterances=1)
    return espeak.waveform(block, next(espeak.recordings(block).itertuples()))


# --- the measure -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.lists(st.booleans(), min_size=1),
    st.sampled_from([160, 480, 512]),
)
def test_the_share_is_that_of_the_audible_time_under_frames_of_speech(
    active: list[bool], is_speech: list[bool], frame: int
) -> None:
    by_sample = np.repeat(is_speech, frame)
    middles = [160 * k + 80 for k, heard in enumerate(active) if heard and 160 * k + 80 < len(by_sample)]
    if middles:
        share = speech_share(np.array(is_speech), frame, np.array(active))
        assert share == pytest.approx(np.mean([by_sample[at] for at in middles]))
    else:
        with pytest.raises(ValueError, match="no active frame"):
            speech_share(np.array(is_speech), frame, np.array(active))


def test_pauses_do_not_speak_against_a_talk_nor_silence_for_a_word(vad: None) -> None:
    """Over the whole recording the talk would be no speech, and the word would be let into the other class."""
    talk = spoken()
    paused = np.concatenate([talk, np.zeros(3 * len(talk), np.float32)])
    word = np.concatenate([talk[: len(talk) // 2], np.zeros(20 * len(talk), np.float32)])
    assert share_of_speech(paused, "silero") > 0.7
    assert share_of_speech(word, "silero") > 0.7
    assert np.mean(activity(paused)) < 0.3
    assert np.mean(activity(word)) < 0.05


@pytest.mark.parametrize("how", [("silero",), ("webrtc", 2, 30)])
def test_a_recording_is_heard_at_the_level_of_its_clips(vad: None, how: tuple[Any, ...]) -> None:
    talk = spoken()
    assert share_of_speech(talk * np.float32(1e-3), *how) == pytest.approx(share_of_speech(talk, *how), abs=0.02)


@pytest.mark.parametrize("ms", [10, 25, 31, 44, 60, 200, 299, 301])
def test_the_shortest_recordings_have_a_share(vad: None, ms: float) -> None:
    for how in (("silero",), ("webrtc", 3, 30), ("webrtc", 0, 10)):
        assert 0 <= share_of_speech(hiss(ms), *how) <= 1  # type: ignore[arg-type]
    late = np.concatenate([np.zeros(round(16 * ms), np.float32), hiss(12)])
    assert 0 <= share_of_speech(late, "webrtc", 3, 30) <= 1, "a last frame that is not whole is filled up and heard"


def test_silero_keeps_voices_as_speech_and_hiss_as_none(vad: None) -> None:
    assert share_of_speech(spoken(), "silero") >= 0.7
    assert share_of_speech(hiss(1000), "silero") <= 0.05


def test_webrtc_hears_a_voice_in_hiss_at_the_level_of_a_clip(vad: None) -> None:
    """Why it cannot say which NONSPEECH is clean."""
    assert share_of_speech(hiss(1000, 0.01), "webrtc", 3, 30) > 0.9


# --- the verdict -------------------------------------------------------------------------------------------------


def shares(*rows: tuple[str, str | None, str, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["role", "label", "group_id", "speech_share"])
    return table.assign(
        recording_id=[f"r,{k}" for k in range(len(table))],
        supergroup_id=table["group_id"],
        category="",
        duration_s=1.0,
    )


MEASURED = shares(
    ("content", "SPEECH", "a", 0.7), ("content", "SPEECH", "a", 0.69), ("content", "SPEECH", "b", 0.1),
    ("content", "NONSPEECH", "c", 0.05), ("content", "NONSPEECH", "d", 0.06), ("noise", None, "e", 0.0),
    ("noise", None, "f", 0.9),
)  # fmt: skip


def test_the_first_class_needs_speech_and_the_others_and_the_noise_may_have_none() -> None:
    judged = judge(MEASURED, CLASSES, least_first=0.7, most_others=0.05)
    assert judged["kept"].tolist() == [True, False, False, True, False, True, False]
    assert judged["class"].tolist() == ["SPEECH"] * 3 + ["NONSPEECH"] * 2 + ["noise"] * 2
    assert judged["rule"].unique().tolist() == ["at least 0.7", "at most 0.05"]
    turned = judge(MEASURED, CLASSES[::-1], least_first=0.7, most_others=0.05)
    assert turned["kept"].tolist() == [False, False, False, False, False, True, False]


def test_recordings_and_groups_are_counted_by_class() -> None:
    counts = count_kept(judge(MEASURED, CLASSES, least_first=0.7, most_others=0.05))
    assert counts.to_numpy().tolist() == [
        ["SPEECH", "at least 0.7", 3, 2, 2, 1], ["NONSPEECH", "at most 0.05", 2, 1, 2, 1],
        ["noise", "at most 0.05", 2, 1, 2, 1],
    ]  # fmt: skip


def measured(table: pd.DataFrame) -> SpeechShares:
    with draft(SpeechShares) as folder:
        table.to_parquet(folder / "shares.parquet", index=False)
        return SpeechShares.of(folder, detector="silero", recordings=len(table))


def test_what_is_dropped_is_listed_with_its_measure_and_rule(home: Any) -> None:
    hygiene = judge_labels.fn([measured(MEASURED[:3]), measured(MEASURED[3:])], HygieneBlock(), CLASSES)
    assert hygiene.dropped == {"SPEECH": 2, "NONSPEECH": 1, "noise": 1}
    table = pd.read_csv(hygiene.path / "hygiene.csv")
    assert table[["recording_id", "class", "group_id", "speech_share", "rule"]].to_numpy().tolist() == [
        ["r,4", "NONSPEECH", "d", 0.06, "at most 0.05"], ["r,2", "SPEECH", "b", 0.1, "at least 0.7"],
        ["r,1", "SPEECH", "a", 0.69, "at least 0.7"], ["r,6", "noise", "f", 0.9, "at most 0.05"],
    ]  # fmt: skip
    assert read_json(hygiene.path / "hygiene.json")["detector"] == "Silero, frames of probability 0.5 and more"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"least_speech": 0.8},
            r"would drop SPEECH, all 3 recordings \(at least 0.8 .*0.100 to 0.700, 0.690 in the mid",
        ),
        ({"most_nonspeech": 0.0}, r"would drop NONSPEECH, all 2 recordings"),
    ],
)
def test_a_class_is_never_emptied(home: Any, changes: dict[str, float], said: str) -> None:
    with pytest.raises(CheckFailed, match=said) as error:
        judge_labels.fn([measured(MEASURED)], HygieneBlock(**changes), CLASSES)  # type: ignore[arg-type]
    assert "dataset.hygiene=null" in str(error.value)


def test_noise_is_never_emptied(home: Any) -> None:
    with pytest.raises(CheckFailed, match="noise, all 1 recordings"):
        judge_labels.fn([measured(MEASURED.drop(index=5))], HygieneBlock(), CLASSES)


# --- in a data set -----------------------------------------------------------------------------------------------


def test_a_part_is_never_left_without_a_class(home: Any) -> None:
    sounds = SyntheticSource(kind="synthetic", families=("noise",), draws=1, duration_s=1)
    noise = SyntheticSource(kind="synthetic", role="noise", draws=1, duration_s=1)
    recordings = [gather_recordings.fn(sounds, ""), gather_recordings.fn(noise, "")]
    splits = load_study("study/smoke").dataset.splits
    ids = pd.read_parquet(recordings[0].path / "recordings.parquet")["recording_id"]
    with draft(Hygiene) as folder:
        dropped = pd.DataFrame({"role": "content", "recording_id": ids[1:]})
        dropped.to_csv(folder / "hygiene.csv", index=False)
        hygiene = Hygiene.of(folder, recordings={"NONSPEECH": len(ids)}, dropped={"NONSPEECH": len(ids) - 1})
    with pytest.raises(
        CheckFailed, match=rf"NONSPEECH has 1 .*hygiene had dropped {len(ids) - 1} of {len(ids)} NONSPEECH"
    ):
        deal_sides.fn(recordings, splits, hygiene)


@pytest.mark.slow
def test_a_data_set_holds_nothing_that_was_dropped_and_says_what_was(home: Any, vad: None) -> None:
    plan = "\n".join(plan_study("study/smoke", BY_WEBRTC))
    assert (
        "label hygiene by webrtc will drop some of these: SPEECH under 0.75 speech, NONSPEECH and noise over 1" in plan
    )
    assert "how many is known once they have been decoded and listened to" in plan
    built = build(load_study("study/smoke", BY_WEBRTC))
    folder = hub.pull("dataset", built.publication.repo, built.publication.sha)
    dropped = pd.read_csv(folder / "hygiene.csv")
    assert 0 < len(dropped) < 10
    assert (dropped["class"] == "SPEECH").all()
    assert (dropped["speech_share"] < 0.75).all()
    used = pd.concat([pd.read_parquet(file, columns=["recording_id"]) for file in (folder / "data").glob("*.parquet")])
    assert not set(used["recording_id"]) & set(dropped["recording_id"])
    assert not set(pd.read_parquet(built.sides.path / "sides.parquet")["recording_id"]) & set(dropped["recording_id"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| SPEECH | at least 0.75 | 30 | {len(dropped)} |" in card
    assert "WebRTC, mode 3, frames of 30 ms" in card
    assert {finding.verdict for finding in verify_repo(built.publication.repo)} == {"equal", "recorded"}
    after = "\n".join(plan_study("study/smoke", BY_WEBRTC))
    assert f"has dropped {len(dropped)} of 30 SPEECH, 0 of 28 NONSPEECH, 0 of 10 noise" in after
    assert "3 of 3 cached" in after


@pytest.mark.slow
def test_other_thresholds_listen_to_nothing_anew(home: Any, vad: None, monkeypatch: pytest.MonkeyPatch) -> None:
    build(load_study("study/smoke", BY_WEBRTC))
    monkeypatch.setattr("tasks.hygiene.share_of_speech", lambda *_: pytest.fail("listened to again"))
    again = build(load_study("study/smoke", [BY_WEBRTC[0].replace("0.75", "0.7")]))
    assert (hub.pull("dataset", again.publication.repo, again.publication.sha) / "hygiene.csv").is_file()


@pytest.mark.slow
def test_without_hygiene_nothing_is_listened_to(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.hygiene.share_of_speech", lambda *_: pytest.fail("listened to"))
    built = build(load_study("study/smoke"))
    folder = hub.pull("dataset", built.publication.repo, built.publication.sha)
    assert not (folder / "hygiene.csv").exists()
    assert "None: labels are those of the sources" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_missing_extra_is_a_sentence_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(detectors.importlib.metadata, "version", absent)
    recipe = load_study("study/smoke", ["dataset.hygiene={}"])
    with pytest.raises(
        ValueError, match=r"dataset\.hygiene silero: onnxruntime, silero-vad not installed; pip .*\[vad\]"
    ):
        demand_extras(recipe, "build")
    demand_extras(load_study("study/smoke"), "build")


# --- the recipe --------------------------------------------------------------------------------------------------


def test_the_settings_of_webrtc_are_its_own() -> None:
    assert HygieneBlock() == HygieneBlock(detector="silero", least_speech=0.7, most_nonspeech=0.05)
    by_webrtc = HygieneBlock(detector="webrtc")
    assert (by_webrtc.mode, by_webrtc.frame_ms) == (3, 30)
    assert HygieneBlock.model_validate(by_webrtc.model_dump()) == by_webrtc
    with pytest.raises(ValueError, match="mode and frame_ms belong to detector webrtc, silero has none"):
        load_study("study/smoke", ["dataset.hygiene={mode: 3}"])
    with pytest.raises(ValueError, match=r"dataset\.hygiene\.least_speech: .*less than or equal to 1"):
        load_study("study/smoke", ["dataset.hygiene.least_speech=70"])


@pytest.mark.parametrize("n", [500, 1000, 2000, 3000])
def test_the_planned_sets_have_the_planned_thresholds(n: int) -> None:
    hygiene = load_study("study/smoke", [f"dataset=dataset/factorial-{n}"]).dataset.hygiene
    assert hygiene == HygieneBlock(least_speech=0.7, most_nonspeech=0.05)
    assert load_study("study/demo").dataset.hygiene is None
    assert load_study("study/corpus").dataset.hygiene is None


@pytest.mark.corpus
@pytest.mark.skipif(not os.environ.get("EARSHOT_CORPUS"), reason="needs the recordings under EARSHOT_CORPUS")
def test_silero_keeps_most_real_recordings_and_webrtc_no_real_sounds(home: Any, vad: None) -> None:
    root = os.environ["EARSHOT_CORPUS"]
    for role, least in (("speech", 0.85), ("nonspeech", 0.9)):
        table = TableSource(kind="table", root=root, where={"role": (role,)})
        from tasks import sources

        files = sources.recordings(table)["path"].iloc[::6]
        heard = [read_clip(f"{root}/{file}") for file in files]
        by_silero = np.array([share_of_speech(samples, "silero") for samples in heard])
        kept = by_silero >= 0.7 if role == "speech" else by_silero <= 0.05
        assert kept.mean() >= least
        if role == "nonspeech":
            assert not any(share_of_speech(samples, "webrtc", 3, 30) <= 0.05 for samples in heard)


def test_measuring_reads_every_recording_of_a_source(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SyntheticSource(kind="synthetic", families=("noise",), draws=40, duration_s=1)
    recordings = gather_recordings.fn(source, "")
    monkeypatch.setattr("tasks.hygiene.share_of_speech", lambda samples, *_: len(samples) / 32_000)
    found = measure_speech.fn(recordings, "silero")
    table = pd.read_parquet(found.path / "shares.parquet")
    assert found.recordings == recordings.recordings == len(table) > 64
    assert (table["speech_share"] == 0.5).all()
