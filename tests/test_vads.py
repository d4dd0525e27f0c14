"""The two voice activity detectors score short clips as their vendors would, each clip for itself, tuned on dev alone."""

from importlib.metadata import distribution

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.sources import EspeakSource
from tasks.audio_files import encode_flac
from tasks.detectors import Labelled, silero, vendor
from tasks.detectors.silero import Silero, SileroDefault, frame_probabilities, frames
from tasks.detectors.webrtc import SETTINGS, Setting, WebRTC, voiced_share
from tasks.functional.calibration import choose_threshold
from tasks.functional.metrics import roc_auc
from tasks.functional.predictions import validate_predictions
from tasks.functional.timing import WARM
from tasks.predictions import score_baseline, timed
from tasks.sources import espeak
from tests.test_predictions import CLASSES, SIDES, table_of, write_splits

pytest.importorskip("webrtcvad", reason="needs the extra vad: pip install -c constraints.txt -e '.[vad]'")
pytest.importorskip("onnxruntime", reason="needs the extra vad: pip install -c constraints.txt -e '.[vad]'")

PLAIN = Setting(mode=0, frame_ms=10, gain_db=0)
EVERY = [True, False] * 10


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(vendor, "_known", {})


def hiss(ms: float, level: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, round(16 * ms)).astype(np.float32)


def voice(ms: float, level: float = 0.5, pitch_hz: float = 120) -> np.ndarray:
    """A buzz through four formants, its loudness moving at 4 Hz."""
    t = np.arange(round(16 * ms)) / 16_000
    out = np.zeros_like(t)
    for h in range(1, 30):
        weight = sum(np.exp(-0.5 * ((h * pitch_hz - f) / 90) ** 2) for f in (700, 1200, 2500, 3400))
        out += weight * np.sin(2 * np.pi * h * pitch_hz * t * (1 + 0.01 * np.sin(2 * np.pi * 3 * t)))
    out *= 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
    return (level * out / np.abs(out).max()).astype(np.float32)


def labelled(clips, is_first) -> Labelled:
    return Labelled(iter(clips), np.array(is_first))


# --- webrtc ------------------------------------------------------------------------------------------------------


def test_the_share_counts_whole_frames_and_is_pulled_towards_one_half():
    assert voiced_share(np.zeros(1600, np.float32), PLAIN) == 1 / 12
    assert voiced_share(hiss(100, 0.3), PLAIN) == 11 / 12
    assert voiced_share(hiss(109.9, 0.3), PLAIN) == 11 / 12, "what is left after the tenth frame is not looked at"
    assert voiced_share(hiss(100, 0.3), PLAIN._replace(frame_ms=30)) == 4 / 5


def test_a_clip_shorter_than_a_frame_is_one_frame_filled_up_with_zeros():
    short = hiss(10, 0.3)
    long = Setting(mode=0, frame_ms=30, gain_db=0)
    assert voiced_share(short, long) == voiced_share(np.pad(short, (0, 320)), long)
    assert voiced_share(short, long) in (1 / 3, 2 / 3)


def test_every_clip_is_heard_by_a_detector_that_has_heard_nothing_before():
    import webrtcvad

    clip, loud = hiss(200, 0.02, seed=1), hiss(2000, 0.3, seed=2)
    alone = voiced_share(clip, PLAIN)
    voiced_share(loud, PLAIN)
    assert voiced_share(clip, PLAIN) == alone
    used = webrtcvad.Vad(0)
    bytes_of = [np.rint(x * 32767).astype("<i2").tobytes() for x in (loud, clip)]
    loud_pcm, pcm = ([b[i : i + 320] for i in range(0, len(b), 320)] for b in bytes_of)
    for frame in loud_pcm:
        used.is_speech(frame, 16_000)
    carried = (sum(used.is_speech(frame, 16_000) for frame in pcm) + 1) / (len(pcm) + 2)
    assert carried != alone, "one detector for all clips would give another share"


def test_a_sample_beyond_full_scale_is_held_there_and_not_wrapped_around():
    """Twice full scale is -2 of 32,767 in 16 bits that wrap: silence."""
    square = np.tile(np.repeat([1, -1], 40), 40).astype(np.float32)
    assert voiced_share(2 * square, PLAIN) == voiced_share(square, PLAIN) > voiced_share(square * 6e-5, PLAIN)


def test_the_gain_is_in_decibels_of_amplitude():
    clip = hiss(1000, 0.1)
    for gain_db, factor in ((-20, 0.1), (-40, 0.01)):
        lowered = voiced_share(clip, PLAIN._replace(gain_db=gain_db))
        assert lowered == voiced_share(clip * np.float32(factor), PLAIN) != voiced_share(clip, PLAIN)


def test_webrtc_takes_the_setting_and_the_threshold_that_dev_calls_for():
    """Loud and soft hiss: at full level every mode calls both voiced, and only a lower level tells them apart."""
    clips = [hiss(200, (0.3, 0.1)[i % 2], seed=i) for i in range(20)]
    areas = {setting: roc_auc([voiced_share(clip, setting) for clip in clips], EVERY) for setting in SETTINGS}
    assert areas[PLAIN] < 0.6
    detector = WebRTC()
    detector.fit(labelled([], []), labelled(clips, EVERY))
    assert detector.setting == max(areas, key=areas.__getitem__), "the first of the best ones"
    p = detector.score(clips)
    assert roc_auc(p, EVERY) == 1
    assert ((p >= detector.threshold) == EVERY).all()
    assert str(detector.setting) in detector.chosen


@pytest.mark.slow
def test_webrtc_ignores_train():
    clips = [hiss(100, (0.2, 0.01)[i % 2], seed=i) for i in range(20)]
    one, other = WebRTC(), WebRTC()
    one.fit(labelled([], []), labelled(clips, EVERY))
    other.fit(labelled(clips, EVERY[::-1]), labelled(clips, EVERY))
    assert (one.setting, one.threshold) == (other.setting, other.threshold)


# --- silero ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ms", [300, 320, 333, 1000])
def test_frame_probabilities_are_those_of_the_vendors_own_streaming_model(ms):
    import torch

    threads = torch.get_num_threads()
    from silero_vad.utils_vad import OnnxWrapper  # sets torch to one thread

    torch.set_num_threads(threads)
    vendor = OnnxWrapper(str(distribution("silero-vad").locate_file("silero_vad/data/silero_vad.onnx")))
    samples = voice(ms) + hiss(ms, 0.02)
    theirs = vendor.audio_forward(torch.from_numpy(samples)[None], 16_000)[0].numpy()
    np.testing.assert_array_equal(frame_probabilities(samples), theirs)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20_000))
def test_frames_cover_the_clip_each_led_by_the_end_of_the_one_before(n):
    samples = np.arange(1, n + 1, dtype=np.float32)
    found = frames(samples)
    whole = found[:, 64:].ravel()
    assert (whole[:n] == samples).all()
    assert not found[0, :64].any()
    assert (found[1:, :64] == found[:-1, -64:]).all()
    if n >= 4800:
        assert not whole[n:].any()
        assert len(whole) - n < 512
    else:
        assert (whole == np.resize(samples, 5120)).all(), "repeated to ten whole frames"


def test_no_clip_hears_the_one_before_it():
    clip, other = voice(500), hiss(500, 0.3)
    alone = frame_probabilities(clip)
    frame_probabilities(other)
    np.testing.assert_array_equal(frame_probabilities(clip), alone)
    carried = frame_probabilities(np.concatenate([other[: 15 * 512], clip]))[15:]
    assert np.abs(carried[: len(alone)] - alone).max() > 1e-3, "a carried state would give other probabilities"


def test_a_clip_is_worked_out_once_and_by_its_samples(monkeypatch):
    calls = []
    real = silero.frame_probabilities
    monkeypatch.setattr(silero, "frame_probabilities", lambda samples: calls.append(0) or real(samples))
    clip, other = voice(300), voice(300, pitch_hz=200)
    (first,) = Silero().score([clip])
    assert Silero().score([clip.copy(), other]).tolist() == [first, real(other).mean(dtype=np.float64)]
    assert first == real(clip).mean(dtype=np.float64) != real(other).mean(dtype=np.float64)
    assert SileroDefault().score([clip]) == [first]
    assert len(calls) == 2


@pytest.mark.parametrize("detector", [Silero, SileroDefault])
def test_on_the_clock_the_model_runs_for_every_clip_though_all_are_known(monkeypatch, detector):
    clips = [hiss(60 + 20 * i, 0.1, seed=i) for i in range(6)]
    known = detector().score(clips)
    calls = []
    real = silero.frame_probabilities
    monkeypatch.setattr(silero, "frame_probabilities", lambda samples: calls.append(0) or real(samples))
    found = timed(detector(), [encode_flac(clip) for clip in clips])
    assert len(calls) == WARM + found["clips"] == WARM + 6
    assert [detector().afresh(clip) for clip in clips] == known.tolist()
    assert len(calls) == WARM + 12


def test_silero_hears_a_voice_and_not_the_hiss():
    pytest.importorskip("espeakng_loader", reason="needs the extra demo: pip install -c constraints.txt -e '.[demo]'")
    block = EspeakSource(kind="espeak", voices=2, utterances=2)
    spoken = [espeak.waveform(block, row) for row in espeak.recordings(block).itertuples()]
    detector = SileroDefault()
    assert (detector.score(spoken) > 0.5).all()
    assert (detector.score([hiss(1000, 0.1), hiss(40, 0.1)]) < 0.1).all()


def test_the_threshold_of_silero_comes_from_dev_and_that_of_the_vendor_stands_beside_it():
    clips = [
        (voice(40 + 10 * i) if i % 2 else hiss(40 + 10 * i, 0.1, seed=i)) + hiss(40 + 10 * i, 0.05) for i in range(20)
    ]
    is_first = EVERY[::-1][:20]
    tuned, vendor = Silero(), SileroDefault()
    for detector in (tuned, vendor):
        detector.fit(labelled([], []), labelled(clips, is_first))
    p = tuned.score(clips)
    assert tuned.threshold == choose_threshold(p, is_first).value != 0.5
    assert vendor.threshold == 0.5
    assert vendor.score(clips).tolist() == p.tolist()


def test_a_release_without_the_model_is_a_sentence_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(silero, "MODEL", "silero_vad/data/gone.onnx")
    with pytest.raises(
        FileNotFoundError, match=r"gone.onnx is not there: pip install -c constraints.txt -e '.\[vad\]'"
    ):
        silero.session.__wrapped__()


# --- in a study --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["webrtc", "silero", "silero_default"])
def test_the_table_of_a_vad_is_valid_and_says_what_its_own_threshold_decides(name, home):
    table = table_of(score_baseline.fn(name, write_splits("clean"), SIDES, CLASSES, 0))
    checked = validate_predictions(table, CLASSES)
    assert checked["prediction"].notna().all()
    assert checked["p_speech"].isna().all() == (name == "silero_default"), "no report may move the vendor's threshold"


def test_a_fold_is_tuned_on_its_own_dev_part(home, monkeypatch):
    heard = []
    monkeypatch.setattr(WebRTC, "fit", lambda self, train, dev: heard.append((len(train.is_first), len(dev.is_first))))
    monkeypatch.setattr(WebRTC, "score", lambda self, clips: np.array([0.5 for _ in clips]))
    splits = write_splits("clean")
    for fold, sides in enumerate((SIDES, {"train": "dev", "dev": "test", "test": "train"})):
        score_baseline.fn("webrtc", splits, sides, CLASSES, fold)
    assert heard == [(16, 6), (8, 16)]
