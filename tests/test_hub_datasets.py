"""A `datasets` repository as a source: bytes or files, labels by name, nothing from outside it."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from recipes.sources import DatasetsSource
from tasks import sources
from tasks.recordings import gather_recordings, source_state
from tasks.split_rows import open_splits

SHA = "0123456789abcdef0123456789abcdef01234567"
MAPPED = {"columns": {"group": "speaker", "label": "kind"}, "labels": {"voice": "SPEECH", "dog": "NONSPEECH"}}


def samples(k: int) -> np.ndarray:
    return np.random.default_rng(k).uniform(-0.5, 0.5, 4_000 + 800 * k).astype(np.float32)


def rows() -> datasets.Dataset:
    """Four rows of audio bytes, a class label and a number that names the speaker."""
    encoded = []
    for k in range(4):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples(k), 8_000, format="FLAC" if k % 2 else "WAV", subtype="PCM_16")
        encoded.append({"bytes": buffer.getvalue(), "path": f"{k}.{'flac' if k % 2 else 'wav'}"})
    features = datasets.Features({
        "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "speaker": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["voice", "dog"]),
    })  # fmt: skip
    data = datasets.Dataset.from_dict(
        {"audio": encoded, "speaker": [7, 7, 8, 9], "kind": [0, 0, 0, 1]}, features=features
    )
    return data.cast_column("audio", datasets.Audio(decode=False))


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "mine/data").mkdir(parents=True)
    rows().to_parquet(str(tmp_path / "mine/data/train-00000-of-00001.parquet"))
    return tmp_path / "mine"


def block(repo: Path | str, **changes: Any) -> DatasetsSource:
    return DatasetsSource.model_validate({"kind": "datasets", "repo": str(repo), **MAPPED, **changes})


def saved(folder: Path) -> Path:
    datasets.DatasetDict({"train": rows()}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def test_rows_of_parquet_and_of_a_saved_folder_are_the_same_recordings(parquet: Path, tmp_path: Path) -> None:
    for folder in (parquet, saved(tmp_path)):
        table = sources.recordings(block(folder))
        assert table.columns.tolist() == list(sources.COLUMNS)
        assert table["recording_id"].tolist() == [f"{folder.name}:train#{k}" for k in range(4)]
        assert table["group_id"].tolist() == ["7", "7", "8", "9"]
        assert table["label"].tolist() == ["SPEECH"] * 3 + ["NONSPEECH"]
        lengths = [len(sources.waveform(block(folder), row)) / 16_000 for row in table.itertuples()]
        np.testing.assert_allclose(lengths, [len(samples(k)) / 8_000 for k in range(4)])
        np.testing.assert_allclose(sources.durations_s(block(folder), table), lengths)


def test_kept_rows_keep_their_numbers_and_so_their_audio(parquet: Path, home: Path) -> None:
    dogs = block(parquet, where={"kind": "dog"})
    table = sources.recordings(dogs)
    assert table["recording_id"].tolist() == ["mine:train#3"]
    assert len(sources.waveform(dogs, next(table.itertuples()))) == 2 * len(samples(3))
    assert gather_recordings.fn(dogs, "").recordings == 1


def test_files_are_read_inside_the_repository_and_only_there(parquet: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", samples(1), 8_000)
    soundfile.write(parquet / "data/1.wav", samples(1), 8_000)
    for name in ("data/1.wav", "../secret.wav", str(tmp_path / "secret.wav")):
        given = datasets.Dataset.from_dict({"audio": [name], "speaker": ["ann"], "kind": ["voice"]})
        given.to_parquet(str(parquet / "data/train-00000-of-00001.parquet"))
        row = next(sources.recordings(block(parquet)).itertuples())
        if name == "data/1.wav":
            assert len(sources.waveform(block(parquet), row)) == 2 * len(samples(1))
        else:
            with pytest.raises(ValueError, match=r"secret\.wav' lies outside the repository"):
                sources.waveform(block(parquet), row)


@pytest.mark.skipif(find_spec("torchcodec") is not None, reason="with torchcodec, `datasets` lists folders of audio")
def test_a_folder_of_audio_is_sent_to_the_sources_that_read_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "train").mkdir()
    soundfile.write(tmp_path / "train/1.wav", samples(1), 8_000)
    with pytest.raises(ValueError, match=r"read it by `kind: folder`, or by `kind: table`"):
        sources.recordings(block(tmp_path))


@pytest.mark.parametrize(
    "path", ["../secret/*.parquet", "/etc/*.parquet", "https://example.org/x.parquet", "hf://datasets/a/b"]
)
def test_a_readme_that_points_outside_is_refused(parquet: Path, path: str) -> None:
    readme = (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path!r}\n---\n# Mine\n"
    )
    (parquet / "README.md").write_text(readme)
    with pytest.raises(ValueError, match="names data files outside the repository"):
        sources.recordings(block(parquet))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", "\n---\nconfigs:\n- config_name: default\n  data_files: ../secret.parquet\n---\n"),
        (".huggingface.yaml", "configs:\n- config_name: default\n  data_files: ../secret.parquet\n"),
        ("state.json", '{"_data_files": [{"filename": "../../secret.arrow"}]}'),
        ("dataset_dict.json", '{"splits": ["../secret"]}'),
        ("train/state.json", '{"_data_files": [{"filename": "/etc/secret.arrow"}]}'),
    ],
)
def test_whatever_datasets_is_steered_by_may_not_point_outside(parquet: Path, file: str, text: str) -> None:
    (parquet / file).parent.mkdir(exist_ok=True)
    (parquet / file).write_text(text)
    with pytest.raises(ValueError, match="names data files outside the repository"):
        sources.recordings(block(parquet))
    with pytest.raises(ValueError, match="names data files outside the repository"):
        open_splits(parquet)


@pytest.mark.parametrize("repo", ["me/mine", "me/mine@main", "me/mine@0123456", "../me/mine@x/..\n"])
def test_a_repository_of_the_hub_is_pinned(repo: str) -> None:
    if repo.startswith("."):
        assert block(repo).repo == repo
        with pytest.raises(FileNotFoundError, match="does not exist; check `repo`"):
            sources.recordings(block(repo))
        return
    with pytest.raises(ValueError, match=r"neither a folder .* nor a data set of the Hub with its revision"):
        block(repo)


def test_a_pinned_repository_comes_from_the_cache_of_the_hub(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError, match=f"me/mine@{SHA} is not here and did not come"):
        sources.recordings(block(f"me/mine@{SHA}"))
    snapshot = tmp_path / "hub/datasets--me--mine/snapshots" / SHA
    snapshot.parent.mkdir(parents=True)
    parquet.rename(snapshot)
    source = block(f"me/mine@{SHA}")
    table = sources.recordings(source)
    assert table["recording_id"].iloc[0] == "me/mine:train#0"
    assert len(sources.waveform(source, next(table.itertuples()))) == 2 * len(samples(0))
    assert source_state(source) == "", "a revision does not change"


def test_a_changed_folder_gathers_anew(parquet: Path) -> None:
    before = source_state(block(parquet))
    assert source_state(block(parquet)) == before
    (parquet / "data/more.txt").write_text("x")
    assert source_state(block(parquet)) != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "test"}, r"[Uu]nknown split|has no split"),
        ({"audio": "sound"}, "has no column 'sound' of audio; it has audio, speaker, kind"),
        ({"columns": {"group": "who"}}, r"columns\.group: .* has no column 'who'"),
        ({"config": "german"}, r"'german'"),
    ],
)
@pytest.mark.parametrize("layout", ["parquet", "saved"])
def test_what_a_repository_does_not_have_is_named(
    parquet: Path, tmp_path: Path, layout: str, changes: dict[str, Any], said: str
) -> None:
    folder = parquet if layout == "parquet" else saved(tmp_path)
    with pytest.raises(ValueError, match=said):
        sources.recordings(block(folder, **changes))


def test_bad_bytes_name_their_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = datasets.Dataset.from_dict(
        {"audio": [{"bytes": b"not audio", "path": "x.wav"}], "speaker": [1], "kind": ["dog"]}
    )
    (tmp_path / "bad").mkdir()
    data.to_parquet(str(tmp_path / "bad/train.parquet"))
    source = block(tmp_path / "bad")
    table = sources.recordings(source)
    assert sources.durations_s(source, table).isna().all()
    with pytest.raises(ValueError, match=r"^bad:train#0: is not readable as audio"):
        sources.waveform(source, next(table.itertuples()))
