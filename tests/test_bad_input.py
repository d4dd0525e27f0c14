"""Bad input ends a run with a sentence that says what to do, and leaves nothing half-written behind."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from flows.run_study import StudyRun, run_study
from recipes.clips import SAMPLE_RATE_HZ
from recipes.sources import TableSource
from tasks.recordings import gather_recordings
from tasks.store import Clips, Recordings, Sides, Splits, fingerprint, home, shelf
from tests.building import plainly
from tests.commands import earshot

SPEAKERS, SOUNDS, NOISES = 6, 6, 3


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of recordings with metadata.csv: six speakers, six sounds, three noises."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    draw = np.random.default_rng(1)
    rows = []
    for label, prefix, groups in (("SPEECH", "s", SPEAKERS), ("NONSPEECH", "n", SOUNDS), ("noise", "z", NOISES)):
        for group in range(groups):
            file = f"{prefix}{group}.wav"
            soundfile.write(folder / file, 0.1 * draw.standard_normal(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
            rows.append({"file": file, "label": label, "group_id": f"{prefix}{group}"})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder


def study(corpus: Path, *, source: dict[str, object] | None = None) -> Path:
    """A study over `corpus` as a YAML beside it; `source` adds keys to the content's source."""
    path = corpus.parent / "study.yaml"
    content = {"kind": "table", "root": str(corpus), "where": {"label": ["SPEECH", "NONSPEECH"]}, **(source or {})}
    noise = {"kind": "table", "root": str(corpus), "role": "noise", "where": {"label": ["noise"]}}
    clips = {"duration_ms": [100], "snr_db": [10], "per_cell": 2}
    dataset = {"name": "mine", "sources": [content, noise], "clips": clips,
               "splits": {"fractions": {"train": 0.4, "dev": 0.3, "test": 0.3}}}  # fmt: skip
    recipe = {"schema": 1, "name": "mine", "dataset": dataset, "train": "train/smoke", "evaluate": "evaluate/default",
              "publish": {"dataset": "clips", "adapter": "adapter"}}  # fmt: skip
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def plain(home: Path) -> Iterator[None]:
    """Flows as plain functions, on an empty home."""
    with plainly():
        yield


@pytest.fixture
def build(plain: None, corpus: Path) -> Callable[..., StudyRun]:
    """`earshot build` of that study in this process."""
    return lambda *overrides, **keys: run_study(str(study(corpus, **keys)), list(overrides), until="build")


def rewrite(corpus: Path, change) -> None:
    table = pd.read_csv(corpus / "metadata.csv")
    change(table).to_csv(corpus / "metadata.csv", index=False)


def nothing_half_written() -> bool:
    """No draft is left in the store, and what is in it is what its name says."""
    kinds = (Recordings, Sides, Clips, Splits)
    folders = {kind: [*shelf(kind).glob("[!.]*[!.json]")] for kind in kinds}
    named = all(fingerprint(folder) == folder.name for found in folders.values() for folder in found)
    return named and not list((home() / "store").glob("*/.*"))


@pytest.mark.slow
def test_sound_recordings_become_a_data_set(build, corpus):
    assert build().data.splits.verdict == "clean"


def test_a_corpus_that_is_not_there_is_named(build, corpus):
    shutil.move(corpus, corpus.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"the folder .*recordings does not exist; check `root`"):
        build()
    assert nothing_half_written()


def test_a_table_without_groups_is_refused_with_the_columns_it_has(build, corpus):
    rewrite(corpus, lambda table: table.drop(columns="group_id"))
    with pytest.raises(ValueError, match=r"columns.group: metadata.csv has no column 'group_id'; it has file, label"):
        build()
    assert nothing_half_written()


def test_a_class_with_one_group_cannot_be_dealt(build, corpus):
    rewrite(corpus, lambda table: table.assign(group_id=table["group_id"].where(table["label"] != "SPEECH", "one")))
    with pytest.raises(ValueError, match=r"SPEECH has 1 .* 3 parts"):
        build()
    assert nothing_half_written()


BAD = {
    "unreadable": lambda path: path.write_bytes(b"no audio at all"),
    "silent": lambda path: soundfile.write(path, np.zeros(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ),
    "NaN": lambda path: soundfile.write(path, np.full(SAMPLE_RATE_HZ, np.nan, "f4"), SAMPLE_RATE_HZ, subtype="FLOAT"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_file_is_named(home, corpus, how):
    BAD[how](corpus / "s3.wav")
    block = TableSource(kind="table", root=str(corpus), where={"label": ("SPEECH", "NONSPEECH")})
    with pytest.raises((ValueError, FileNotFoundError), match=r"s3\.wav"):
        gather_recordings.fn(block, "")
    assert nothing_half_written()


def test_a_bad_file_stops_the_build(build, corpus):
    BAD["unreadable"](corpus / "s3.wav")
    with pytest.raises(ValueError, match=r"s3\.wav"):
        build()
    assert nothing_half_written()


@pytest.mark.slow
def test_bad_files_are_left_out_and_named_only_where_the_recipe_says_so(build, corpus, caplog):
    bad = dict(zip(BAD, ("s3.wav", "s4.wav", "n3.wav", "n4.wav"), strict=True))
    for how, name in bad.items():
        BAD[how](corpus / name)
    with caplog.at_level("INFO", logger="earshot"):
        built = build(source={"on_bad_file": "skip"})
    assert built.data.recordings[0].recordings == SPEAKERS + SOUNDS - len(bad)
    assert all(name in caplog.text for name in bad.values())


def test_bad_files_that_empty_a_class_are_not_skipped_in_silence(build, corpus):
    for speaker in range(SPEAKERS):
        BAD["silent"](corpus / f"s{speaker}.wav")
    with pytest.raises(ValueError, match="SPEECH"):
        build(source={"on_bad_file": "skip"})
    assert nothing_half_written()


# --- the machine -------------------------------------------------------------------------------------------------


def test_a_recipe_that_needs_a_gpu_is_refused_before_anything_runs(plain, home, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")  # no nvidia-smi
    with pytest.raises(ValueError, match=r"train.device=cuda and no NVIDIA GPU answers"):
        run_study("study/smoke", ["train.device=cuda"])
    assert not (home / "store").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the recordings of `corpus` and no more, where one may be mounted."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0
    if mounted:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=460k", "tmpfs", folder], capture_output=True)
        mounted = done.returncode == 0
    if not mounted:
        pytest.skip("no file system can be mounted here: needs Linux and root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_only_whole_artifacts(plain, full_disk, corpus, monkeypatch):
    monkeypatch.setenv("EARSHOT_HOME", str(full_disk / "home"))
    with pytest.raises(OSError, match="No space left on device"):
        run_study(str(study(corpus)), [], until="build")
    assert nothing_half_written()
    done = {folder for kind in (Recordings, Sides, Clips) for folder in shelf(kind).glob("[!.]*")}
    assert done, "it was full in the middle"
    subprocess.run(["mount", "-o", "remount,size=64m", full_disk], check=True)
    assert run_study(str(study(corpus)), [], until="build").data.splits.verdict == "clean", "with space it goes on"
    assert all(folder.exists() for folder in done)
    assert nothing_half_written()


@pytest.mark.slow
def test_the_command_says_so_too(tmp_path, corpus):
    done = earshot(tmp_path / "home", "build", str(study(corpus)), "--set", "dataset.sources.0.root=/nowhere")
    assert done.code == 2
    assert done.err.strip().splitlines()[-1] == (
        "earshot: source table: the folder /nowhere does not exist; check `root`"
    )
    assert "Traceback" not in done.err
