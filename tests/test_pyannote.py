"""PyAnnote's segmentation scores as pyannote.audio itself does, and its checkpoints are read without running what they hold.

They need the extra, which none of the others do: `pip install -c constraints.txt -e '.[pyannote]'`, `pytest -m pyannote`.
"""

import os
import pickle
import sys
import types

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from flows.demands import demand_baselines
from recipes.schema import load_study
from tasks.detectors import Labelled, make, pyannote, vendor
from tasks.detectors.pyannote import MIRRORED, SILENCE, frame_probabilities
from tasks.detectors.weights import Weights, weights_for
from tasks.functional.calibration import choose_threshold
from tasks.functional.metrics import roc_auc
from tasks.functional.predictions import validate_predictions
from tasks.predictions import score_baseline
from tests.test_predictions import CLASSES, SIDES, table_of, write_splits
from tests.test_vads import hiss, voice

pytestmark = pytest.mark.pyannote

os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
EVERY = [True, False] * 3
CLIPS = [voice(200 + 50 * i) if first else hiss(200 + 50 * i, 0.3, seed=i) for i, first in enumerate(EVERY)]
# The shortest clips there are, some of a whole number of frames, either side of 300 ms, the longest, and longer ones.
LENGTHS = [320, 640, 270, 991, 2_700, 4_799, 4_800, 16_000, 40_000]
KINDS = pytest.mark.parametrize("powerset", [True, False])


def labelled(clips=CLIPS, is_first=EVERY) -> Labelled:
    return Labelled(iter(clips), np.array(is_first))


def checkpoint(folder, *, powerset=True, duration=2.0, change=lambda content: None) -> Weights:
    """A random PyanNet with its classes, saved as PyAnnote saves it."""
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    torch.manual_seed(0)
    settings = {"sincnet": {"stride": 10}, "lstm": {"hidden_size": 8, "num_layers": 1}, "linear": {"hidden_size": 8}}
    model = PyanNet(**settings)
    problem = Problem.MONO_LABEL_CLASSIFICATION if powerset else Problem.MULTI_LABEL_CLASSIFICATION
    model.specifications = Specifications(
        problem=problem, resolution=Resolution.FRAME, duration=duration, classes=["a", "b", "c"],
        powerset_max_classes=2 if powerset else None, permutation_invariant=True,
    )  # fmt: skip
    model.build()
    torch.nn.init.normal_(model.classifier.weight, std=3)  # frames that differ
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    content["pyannote.audio"]["versions"]["torch"] = torch.__version__
    content["pytorch-lightning_version"] = "2.6.0"
    change(content)
    torch.save(content, folder / "pytorch_model.bin")
    found = weights_for("pyannote", {"pyannote": str(folder)})
    assert found is not None
    return found


def its_own(weights: Weights):
    """The network as pyannote.audio itself loads it."""
    from pathlib import Path

    from pyannote.audio import Model

    return Model.from_pretrained(Path(weights.place, "pytorch_model.bin")).eval()


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


def as_file(samples: np.ndarray) -> dict:
    return {"waveform": torch.from_numpy(samples)[None], "sample_rate": 16_000, "uri": "clip"}


@KINDS
def test_a_checkpoint_becomes_the_network_that_pyannote_loads(tmp_path, powerset):
    weights = checkpoint(tmp_path, powerset=powerset)
    ours, theirs = pyannote.load(weights), its_own(weights)
    assert ours.specifications == theirs.specifications
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    waveform = torch.from_numpy(noise(16_000))[None, None]
    with torch.inference_mode():
        assert torch.equal(ours(waveform), theirs(waveform))


@KINDS
@pytest.mark.parametrize("samples", LENGTHS)
def test_in_silence_a_clip_has_the_frames_of_pyannotes_own_inference(tmp_path, powerset, samples):
    """Padded as it pads, its padding's frames dropped as it drops them; of the powerset the soft answer."""
    from pyannote.audio import Inference

    weights, clip = checkpoint(tmp_path, powerset=powerset, duration=4.0), noise(samples)

    def anybody(scores: np.ndarray) -> np.ndarray:
        return scores.max(-1, keepdims=True) if not powerset else np.exp(scores[..., 1:]).sum(-1, keepdims=True)

    reference = Inference(its_own(weights), skip_conversion=True, pre_aggregation_hook=anybody)(as_file(clip)).data[
        :, 0
    ]
    found = frame_probabilities(weights, clip, SILENCE)
    assert len(found) == samples // 270 + 1
    np.testing.assert_allclose(found, reference, rtol=0, atol=2e-6)
    assert np.ptp(found) > 0 or len(found) == 1


@KINDS
@pytest.mark.parametrize("samples", LENGTHS)
def test_to_and_fro_a_clip_has_the_frames_of_pyannotes_own_inference_over_the_whole(tmp_path, powerset, samples):
    from pyannote.audio import Inference
    from pyannote.audio.utils.powerset import Powerset

    weights, clip = checkpoint(tmp_path, powerset=powerset), noise(samples)
    heard = clip if samples >= 4_800 else np.resize(np.concatenate([clip, clip[::-1]]), 5_120)
    scores = torch.from_numpy(Inference(its_own(weights), window="whole", skip_conversion=True)(as_file(heard)))
    if powerset:
        each = Powerset(3, 2).to_multilabel(scores, soft=True)
        nobody = scores[:, 0].exp()
        assert (each.max(1).values <= 1 - nobody + 1e-6).all(), "anybody is likelier than each of them"
        anybody = 1 - nobody
    else:
        anybody = scores.max(1).values
    np.testing.assert_allclose(frame_probabilities(weights, clip, MIRRORED), anybody.numpy(), rtol=0, atol=2e-6)


def test_its_pipeline_for_voice_activity_finds_speech_where_these_frames_are_above_its_threshold(tmp_path):
    from pyannote.audio.pipelines import VoiceActivityDetection

    weights = checkpoint(tmp_path, powerset=False)
    pipeline = VoiceActivityDetection(segmentation=its_own(weights))
    found = np.concatenate([frame_probabilities(weights, clip, SILENCE) for clip in CLIPS])
    edge = float(np.median(found))
    pipeline.instantiate({"onset": edge, "offset": edge, "min_duration_on": 0.0, "min_duration_off": 0.0})
    said = []
    for clip in CLIPS:
        heard = {}
        regions = pipeline(as_file(clip), hook=lambda step, artefact, its=heard, **_: its.update({step: artefact}))
        frames = frame_probabilities(weights, clip, SILENCE)
        np.testing.assert_allclose(frames, heard["segmentation"].data[:, 0], rtol=0, atol=2e-6)
        said.append(bool(regions))
        assert said[-1] == bool((frames > edge).any())
    assert any(said)


def test_what_follows_a_clip_is_nothing_of_another_clip_and_each_is_heard_alone(tmp_path):
    detector = make("pyannote", checkpoint(tmp_path))
    vendor._known.clear()
    p = detector.score(CLIPS)
    vendor._known.clear()
    np.testing.assert_array_equal(detector.score(CLIPS[::-1])[::-1], p)
    assert len(np.unique(p)) == len(CLIPS)
    assert ((p > 0) & (p < 1)).all()
    assert detector.afresh(CLIPS[0]) == p[0]


@KINDS
def test_context_and_threshold_are_those_of_the_higher_area_on_dev(tmp_path, powerset):
    weights = checkpoint(tmp_path, powerset=powerset)
    detector = make("pyannote", weights)
    detector.fit(labelled([], []), labelled())
    ways = {
        context: np.array([frame_probabilities(weights, clip, context).mean() for clip in CLIPS])
        for context in (SILENCE, MIRRORED)
    }
    assert not np.allclose(ways[SILENCE], ways[MIRRORED])
    areas = {context: roc_auc(p, np.array(EVERY)) for context, p in ways.items()}
    best = max(areas, key=areas.__getitem__)
    assert detector.context == best
    assert detector.threshold == choose_threshold(ways[best], np.array(EVERY)).value
    assert detector.chosen == f"{best}, threshold {detector.threshold:.3f}; AUC {areas[best]:.3f} on dev"
    np.testing.assert_allclose(detector.score(CLIPS), ways[best], atol=1e-12)


def test_what_a_test_clip_is_called_changes_nothing_of_a_run_and_what_a_dev_clip_is_called_does(tmp_path, home):
    """Context and threshold are those of the sides that a fold calls dev: its own labels alone move them."""
    weights = checkpoint(tmp_path)
    splits = write_splits("clean")

    def decided(flipped: str) -> pd.DataFrame:
        file = splits.path / "data" / f"{flipped}.parquet"
        before = file.read_bytes() if flipped else b""
        if flipped:
            rows = pq.read_table(file)
            labels = [CLASSES[label == CLASSES[0]] for label in rows["label"].to_pylist()]
            pq.write_table(rows.set_column(rows.schema.get_field_index("label"), "label", [labels]), file)
        try:
            made = score_baseline.fn("pyannote", splits, SIDES, CLASSES, 0, None, weights)
        finally:
            if flipped:
                file.write_bytes(before)
        return validate_predictions(table_of(made), CLASSES)

    plain = decided("")
    assert set(plain["split"]) == {"dev", "test"}
    assert plain["p_speech"].nunique() > 1
    for column in ("p_speech", "prediction"):
        assert decided("test")[column].tolist() == plain[column].tolist()
    assert decided("dev")["prediction"].tolist() != plain["prediction"].tolist()


def test_a_run_knows_where_its_tiny_model_lies_before_anything_is_built(tmp_path):
    checkpoint(tmp_path)
    sets = ["evaluate.baselines=[pyannote]", f"evaluate.weights.pyannote={tmp_path}"]
    demand_baselines(load_study("study/smoke", sets), "evaluate")


# --- checkpoints -------------------------------------------------------------------------------------------------


class Shouts:
    """What a pickle may hold: a call that is made when it is read."""

    def __reduce__(self):
        return (print, ("a checkpoint ran code",))


def test_nothing_that_a_checkpoint_holds_is_run(tmp_path, capsys):
    weights = checkpoint(tmp_path, change=lambda its: its.update(callbacks=Shouts()))
    assert pyannote.load(weights).specifications.duration == 2.0
    assert "ran code" not in capsys.readouterr().out
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert "ran code" in capsys.readouterr().out


def test_what_would_reach_the_system_is_refused(tmp_path):
    class Removes:
        def __reduce__(self):
            return (os.system, ("true",))

    weights = checkpoint(tmp_path, change=lambda its: its.update(callbacks=Removes()))
    with pytest.raises(ValueError, match="can be read without running what it holds"):
        pyannote.load(weights)


def test_settings_of_a_training_that_are_not_installed_here_are_no_hindrance(tmp_path, monkeypatch):
    """As in pyannote/segmentation, whose optimiser's settings are objects of omegaconf."""
    absent = types.ModuleType("omegaconf_gone")
    absent.ListConfig = type("ListConfig", (), {"__module__": "omegaconf_gone", "content": 0})
    monkeypatch.setitem(sys.modules, "omegaconf_gone", absent)
    betas, betas_of = absent.ListConfig(), absent.ListConfig()
    betas.content = {"betas": betas_of}
    weights = checkpoint(tmp_path, change=lambda its: its.update(optimizer_states=[betas]))
    monkeypatch.delitem(sys.modules, "omegaconf_gone")
    with pytest.raises(ModuleNotFoundError):
        torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert frame_probabilities(weights, CLIPS[0], SILENCE).size


def rename(content):
    content["pyannote.audio"]["architecture"]["class"] = "XVectorSincNet"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename, r"holds a XVectorSincNet; a PyanNet that segments is needed"),
        (lambda its: its["hyper_parameters"].update(sample_rate=8_000), r"hears 8000 Hz; clips are of 16000 Hz"),
        (
            lambda its: its["state_dict"].pop("classifier.bias"),
            r"not those of the network it describes: .*classifier\.bias",
        ),
        (lambda its: its.pop("pyannote.audio"), r"no checkpoint of PyAnnote .*KeyError: 'pyannote\.audio'"),
        (lambda its: its["hyper_parameters"].update(lstm=Shouts()), r"no checkpoint of PyAnnote .*no plain values"),
    ],
)
def test_another_network_is_refused_in_a_sentence(tmp_path, change, said):
    weights = checkpoint(tmp_path, change=change)
    with pytest.raises(ValueError, match=rf"evaluate\.weights\.pyannote: .*pytorch_model\.bin.*{said}"):
        pyannote.load(weights)


def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    for damage in (
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"version https://git-lfs",
    ):
        checkpoint(tmp_path)
        file.write_bytes(damage(file.read_bytes()))
        weights = Weights(str(tmp_path), str(len(file.read_bytes())))
        with pytest.raises(
            ValueError, match=rf"{file} is no checkpoint of PyAnnote that can be read .* name the folder"
        ):
            pyannote.load(weights)
    file.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(ValueError, match="is no checkpoint of PyAnnote that can be read"):
        pyannote.load(Weights(str(tmp_path), "a plain pickle"))
