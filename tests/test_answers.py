"""A published adapter answers anybody's audio as it answered its own test clips, and says where it was never measured."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from scipy.special import expit, logit

from flows import cli
from flows.ask import none_found
from recipes.clips import ContextBlock
from tasks import answers
from tasks.answers import COLUMNS, predict, prepared, written
from tasks.audio_files import decode_flac, encode_flac
from tasks.audio_inputs import expand
from tasks.detectors import audio_llm
from tasks.functional.segments import window_starts
from tasks.hub import find
from tasks.models.jobs import ScoringJob
from tasks.published_adapters import find_adapter
from tasks.reviews import find_new_files, keep_answers
from tests.commands import ROOT, earshot

ADAPTER = "earshot/smoke-adapter"
SILENT = "digital silence holds no SPEECH: the model was not asked about it"


@pytest.fixture(scope="module")
def hub_home(smoke, tmp_path_factory):
    """A home that holds what the smoke study published and nothing else."""
    assert smoke.first.code == 0, smoke.first.err[-3000:]
    home = tmp_path_factory.mktemp("predict") / "home"
    shutil.copytree(smoke.home / "hub", home / "hub")
    return home


@pytest.fixture
def adapter(hub_home, monkeypatch):
    """The published adapter's folder, in a home of its own, asked in this process."""
    monkeypatch.setenv("EARSHOT_HOME", str(hub_home))

    def run(self, module, *, on_line, **told):
        file = Path(f"{self.output}.job.json")
        file.write_text(self.model_dump_json())
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            audio_llm.main(str(file))
        for line in said.getvalue().splitlines():
            on_line(line)

    monkeypatch.setattr(ScoringJob, "run", run)
    return find(ADAPTER)[0]


def noise(ms: float, seed: int = 0, level: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-level, level, round(16 * ms))


@pytest.fixture
def audio(tmp_path):
    """Files that can be asked, and some that cannot."""
    folder = tmp_path / "audio é"
    (folder / "sub").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(100), 16_000)
    soundfile.write(folder / "sub" / "b.flac", noise(1000, level=0.3)[::2], 8_000)
    soundfile.write(folder / "c.wav", noise(12.5), 16_000)
    soundfile.write(folder / "d.wav", np.zeros(1600), 16_000)
    (folder / "e.wav").write_bytes(b"RIFFxxxx")
    soundfile.write(folder / "f.wav", noise(31_000, level=0.1), 16_000)
    return folder


def quiet(line: str) -> None:
    """No progress."""


# --- answers -----------------------------------------------------------------------------------------------------


def test_a_published_clip_gets_its_published_answer(adapter, tmp_path):
    own = pd.read_parquet(adapter / "predictions.parquet").query("detector == 'adapter' and method == 'forward'")
    own = own[own["split"] == "test"].set_index("clip_id")
    clips = pq.read_table(find("earshot/smoke-clips")[0] / "data" / "test.parquet", columns=["clip_id", "audio"])
    for row in clips.to_pylist():
        (tmp_path / f"{row['clip_id']}.flac").write_bytes(row["audio"]["bytes"])
    table = predict(ADAPTER, [tmp_path], say=quiet)
    assert len(table) == len(own) > 20
    published = own.loc[[Path(path).stem for path in table["path"]]]
    np.testing.assert_allclose(table["p_raw"], published["p_speech"].to_numpy(), atol=1e-6)
    report = json.loads((adapter / "report.json").read_text())
    said = np.where(published["p_speech"] >= report["threshold"]["value"], "SPEECH", "NONSPEECH")
    assert table["label"].tolist() == said.tolist()
    assert table["label"].nunique() == 2
    assert not table["warnings"].any(), "nothing of it lies outside what the card was measured on"


def test_each_file_is_answered_or_says_why_not_and_where_the_card_knows_nothing(adapter, audio):
    said = []
    table = predict(ADAPTER, [audio], say=said.append).set_index("path")
    table.index = [Path(path).name for path in table.index]
    assert list(table.index) == ["a.wav", "c.wav", "d.wav", "e.wav", "f.wav", "b.flac"]
    assert table["error"].dropna().to_dict() == {
        "c.wav": "a clip of 12.5 ms gives the model no audio token, it would be answered unheard: 25 ms are the least",
        "e.wav": "is truncated: its header promises 2021161088 bytes, it has 8",
        "f.wav": "is 31.0 s long and the model hears 30 s at once; give --window-ms",
    }
    assert table["label"].notna().tolist() == table["error"].isna().tolist()
    assert table.loc["a.wav", "warnings"] == ""
    assert table.loc["d.wav", ["label", "warnings"]].tolist() == ["NONSPEECH", SILENT]
    assert table.loc["b.flac", "warnings"] == (
        "1000 ms long, the card was measured on 60 to 200 ms; sampled at 8000 Hz: nothing above 4 kHz is in it"
    )
    assert said[0].startswith("6 files, 2 clips to ask; ")
    assert re.match(r"forward: 2/2 clips in \d", said[1])


def test_p_is_softened_by_the_cards_temperature_and_decided_before(adapter, audio, monkeypatch):
    monkeypatch.setattr(
        answers, "find_adapter", lambda name: find_adapter(name)._replace(temperature=2.5, threshold=0.01)
    )
    (row,) = predict(ADAPTER, [audio / "a.wav"], say=quiet).to_dict("records")
    assert row["p_speech"] == pytest.approx(expit(logit(row["p_raw"]) / 2.5))
    assert row["label"] == "SPEECH", "the threshold is that of P as the model says it"


def test_another_prompt_is_asked_and_says_that_the_card_does_not_know_it(adapter, audio, tmp_path):
    path = tmp_path / "prompt.yaml"
    path.write_text("text: 'Is it a voice? A) yes B) no'\nanswers: [B, A]\n")
    plain, asked = (predict(str(adapter), [audio], prompt=prompt) for prompt in (None, str(path)))
    heard = asked[asked["p_raw"].notna()]
    assert heard["warnings"].str.contains("asked by another prompt than the card was measured with").all()
    assert not plain["warnings"].str.contains("another prompt").any()
    assert (heard["p_raw"] != plain.loc[heard.index, "p_raw"]).all()
    assert (heard["p_raw"] == heard["p_speech"]).all(), "the card's temperature is of the card's prompt"
    with pytest.raises(FileNotFoundError, match=r"there is no file missing\.yaml"):
        predict(str(adapter), [audio], prompt="missing.yaml")
    with pytest.raises(ValueError, match="--prompt"):
        predict(str(adapter), [audio], prompt="<|im_end|>")


@pytest.mark.parametrize("fault", [{"at_bound": True}, {"temperature_flag": "inverted"}])
def test_a_temperature_that_the_report_itself_doubts_is_not_used(adapter, tmp_path, fault):
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    report = json.loads((copy / "report.json").read_text())
    fit = {"temperature": 1.5, "at_bound": False, "temperature_flag": None}
    report["calibration"]["dev"] = {"folds": {"0": fit}}
    (copy / "report.json").write_text(json.dumps(report))
    assert find_adapter(str(copy)).temperature == 1.5
    report["calibration"]["dev"] = {"folds": {"0": {**fit, **fault}}}
    (copy / "report.json").write_text(json.dumps(report))
    assert find_adapter(str(copy)).temperature is None


def test_a_clip_is_put_into_the_silence_that_the_training_clips_lay_in(adapter):
    published = find_adapter(ADAPTER)._replace(context=ContextBlock(kind="silence", total_ms=200))
    clip = prepared(noise(20).astype(np.float32), published)
    assert len(clip) == 3200
    assert not clip[: 90 * 16].any()
    assert not clip[-90 * 16 :].any()
    assert np.abs(clip).max() == pytest.approx(np.abs(prepared(noise(100).astype(np.float32), published)).max())


@pytest.mark.parametrize("level", [0.0, 2.0**-17])
def test_silence_is_answered_alike_as_a_file_and_as_a_window_and_no_model_is_asked(
    adapter, tmp_path, monkeypatch, level
):
    hum = level * np.sign(np.sin(np.arange(6400)))
    for name, samples in {"silent.wav": hum, "talk.wav": np.concatenate([noise(400), hum])}.items():
        soundfile.write(tmp_path / name, samples, 16_000, subtype="PCM_24")
    monkeypatch.setattr(answers, "find_adapter", lambda name: find_adapter(name)._replace(temperature=2.5))
    with monkeypatch.context() as patch:
        patch.setattr(ScoringJob, "run", lambda *_, **__: pytest.fail("the model was asked"))
        (whole,) = predict(ADAPTER, [tmp_path / "silent.wav"], say=quiet).to_dict("records")
        (windows,) = predict(ADAPTER, [tmp_path / "silent.wav"], window_ms=200, say=quiet).to_dict("records")
    assert np.isnan([its.pop("p_raw") for its in (whole, windows)]).all(), "the model did not say it"
    assert whole == windows
    assert (whole["label"], whole["p_speech"], whole["warnings"]) == ("NONSPEECH", 0.0, SILENT)
    said = []
    table = predict(ADAPTER, [tmp_path / "talk.wav"], window_ms=200, hop_ms=200, say=said.append)
    assert said[0].startswith("1 file, 2 clips to ask"), "the other two windows are silent"
    assert table["end_s"].iloc[-1] == 0.8
    last = table.iloc[-1]
    assert (last["label"], SILENT in last["warnings"]) == ("NONSPEECH", True)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (
            ("NONSPEECH", "SPEECH"),
            ("NONSPEECH", 1.0, SILENT),
        ),  # it was the second class, SPEECH, with P 0 of the first
        (("DOG", "CAT"), (None, None, "digital silence: the card was measured on no such clip")),  # it was a CAT
    ],
)
def test_silence_is_no_speech_whichever_class_that_is_and_is_asked_of_whoever_tells_dogs_from_cats(
    adapter, tmp_path, monkeypatch, classes, expected
):
    def find(name):
        published = find_adapter(name)
        return published._replace(question=published.question.model_copy(update={"classes": classes}))

    soundfile.write(tmp_path / "silent.wav", np.zeros(3200), 16_000)
    monkeypatch.setattr(answers, "find_adapter", find)
    (whole,) = predict(ADAPTER, [tmp_path / "silent.wav"], say=quiet).to_dict("records")
    (windows,) = predict(ADAPTER, [tmp_path / "silent.wav"], window_ms=200, say=quiet).to_dict("records")
    np.testing.assert_equal(whole, windows)
    label, p, warning = expected
    assert whole["warnings"] == warning
    assert np.isnan(whole["p_raw"]) == (p is not None), "asked of the model only where nothing is known"
    if p is not None:
        assert (whole["label"], whole["p_speech"]) == (label, p)


def test_what_is_kept_is_answered_without_the_model(adapter, audio, monkeypatch):
    said = []
    first = predict(ADAPTER, [audio / "a.wav"], say=quiet)
    monkeypatch.setattr(audio_llm, "load", lambda job: pytest.fail("the model was loaded"))
    pd.testing.assert_frame_equal(predict(ADAPTER, [audio / "a.wav"], say=said.append), first, check_exact=True)
    assert said[1].endswith(", 1 of them kept from before; no model was loaded")
    soundfile.write(audio / "new.wav", noise(100, seed=9), 16_000)
    with pytest.raises(pytest.fail.Exception, match="the model was loaded"):
        predict(ADAPTER, [audio / "new.wav"], say=quiet)


# --- windows -----------------------------------------------------------------------------------------------------


def test_a_long_file_becomes_segments_without_a_gap(adapter, tmp_path):
    soundfile.write(tmp_path / "talk.wav", noise(4000) * np.repeat(np.linspace(0.01, 1, 40), 1600), 16_000)
    table = predict(ADAPTER, [tmp_path / "talk.wav"], window_ms=500, hop_ms=250, say=quiet)
    assert (table["start_s"].iloc[0], table["end_s"].iloc[-1]) == (0, 4)
    assert (table["start_s"].to_numpy()[1:] == table["end_s"].to_numpy()[:-1]).all()
    assert (table["label"].to_numpy()[1:] != table["label"].to_numpy()[:-1]).all()
    np.testing.assert_allclose(table["duration_ms"], 1000 * (table["end_s"] - table["start_s"]))
    assert table["warnings"].str.contains("500 ms long, the card was measured on 60 to 200 ms").all()


@pytest.mark.parametrize("seconds", [0.3, 0.7, 3.05, 3.2])
@pytest.mark.parametrize(("window", "hop"), [(3200, 1600), (1000, 1000), (3200, 700)])
def test_windows_go_on_over_the_stretches_in_which_a_file_is_read(tmp_path, monkeypatch, seconds, window, hop):
    monkeypatch.setattr(answers, "STRETCH_S", 0.5)
    samples = decode_flac(encode_flac(noise(1000 * seconds)))
    soundfile.write(tmp_path / "x.flac", samples, 16_000)
    found = dict(answers.cut(tmp_path / "x.flac", window, hop))
    assert list(found) == window_starts(len(samples), window, hop).tolist()
    for start, clip in found.items():
        np.testing.assert_array_equal(clip, samples[start : start + window])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"hop_ms": 100}, "hop_ms 100 without window_ms"),
        ({"window_ms": 10}, "window_ms 10: the model hears from 25 ms"),
        ({"window_ms": 40_000}, "window_ms 40000: the model hears from 25 ms, one audio token, up to 30000 ms"),
        ({"window_ms": 100, "hop_ms": 200}, "hop_ms 200: from 1 ms up to window_ms, 100"),
        ({"window_ms": float("nan")}, "window_ms nan"),
    ],
)
def test_windows_that_make_no_sense_are_refused_before_anything_is_read(adapter, given, reason):
    with pytest.raises(ValueError, match=reason):
        predict(ADAPTER, ["nowhere.wav"], **given)


# --- what is pointed at ------------------------------------------------------------------------------------------


def test_files_folders_globs_and_standard_input_name_each_file_once(audio, tmp_path):
    def names(*arguments, stdin=b""):
        return [Path(one.name).name for one in expand(arguments, tmp_path, io.BytesIO(stdin))]

    assert names(audio / "a.wav", f"{audio}/*.wav") == ["a.wav", "c.wav", "d.wav", "e.wav", "f.wav"]
    assert names(f"{audio}/**/*.flac") == ["b.flac"]
    assert names("-", stdin=f"{audio}/a.wav\n\n{audio}/sub\n".encode()) == ["a.wav", "b.flac"]
    (one,) = expand(["-"], tmp_path, io.BytesIO((audio / "a.wav").read_bytes()))
    assert one.name == "-"
    assert one.file.read_bytes() == (audio / "a.wav").read_bytes()


@pytest.mark.parametrize(
    ("argument", "stdin", "reason"),
    [
        ("nowhere.wav", b"", "nowhere.wav: there is no such file, and as a pattern it matches no audio"),
        ("empty", b"", "empty: holds no audio; read are .aif"),
        ("-", b"", "no audio: give files, folders"),
        ("", b"", "an empty name among the audio"),
        ("-", bytes(range(200, 256)), "neither audio that can be read nor a list of paths"),
    ],
)
def test_what_names_no_audio_is_a_sentence(tmp_path, monkeypatch, argument, stdin, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match=reason):
        expand([argument], tmp_path, io.BytesIO(stdin))


def test_every_name_that_stands_for_no_audio_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as refused:
        expand(["a.wav", "-", "*.ogg"], tmp_path, io.BytesIO(b"b.wav\n"))
    said = str(refused.value)
    assert said.startswith(
        "no audio: give files, folders, globs, or - for standard input; a.wav: there is no such file"
    )
    assert all(f"{name}: there is no such file" in said for name in ("b.wav", "*.ogg"))


def test_a_missing_file_is_named_and_the_others_are_answered(adapter, audio, monkeypatch, capfd):
    files = [str(audio / name) for name in ("gone.wav", "a.wav", "lost.flac")]
    monkeypatch.setattr("sys.argv", ["earshot", "predict", ADAPTER, *files, "--format", "jsonl"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    answered = capfd.readouterr()
    assert stop.value.code == 1
    rows = [json.loads(line) for line in answered.out.splitlines()]
    assert [row["path"] for row in rows] == files
    why = "there is no such file, and as a pattern it matches no audio"
    assert [row["error"] for row in rows] == [why, None, why]
    assert [bool(row["label"]) for row in rows] == [False, True, False]
    assert "3 files, 1 clip to ask; " in answered.err
    assert f"2 of 3 files could not be asked: {files[0]}: {why}; {files[2]}: {why}\n" in answered.err


def test_an_adapter_that_cannot_be_asked_says_why(adapter, audio, tmp_path):
    with pytest.raises(FileNotFoundError, match="earshot/nope is neither a folder nor in"):
        predict("earshot/nope", [audio])
    bare = shutil.copytree(adapter, tmp_path / "bare")
    (bare / "report.json").unlink()
    with pytest.raises(ValueError, match=r"holds no report.json: what an adapter is asked"):
        predict(str(bare), [audio])
    report = json.loads((adapter / "report.json").read_text())
    lost = shutil.copytree(adapter, tmp_path / "lost")
    report["provenance"]["base"]["revision"] = "0" * 40
    (lost / "report.json").write_text(json.dumps(report))
    with pytest.raises(
        FileNotFoundError, match=r"an adapter of earshot/smoke-adapter-base@0{40}, which is not here: .*--base"
    ):
        predict(str(lost), [audio / "a.wav"], say=quiet)


def test_an_adapter_of_another_base_is_a_sentence(adapter, audio, processor, tmp_path):
    from tasks.models import tiny

    with pytest.MonkeyPatch.context() as narrow:
        narrow.setattr(tiny, "WIDTH", 64)
        tiny.make_model(processor, seed=1).save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError, match="the adapter does not fit this base: it was made for another base; size mism"
    ):
        predict(ADAPTER, [audio / "a.wav"], base=str(tmp_path / "other"), say=quiet)
    own = find("earshot/smoke-adapter-base")[0]
    assert len(predict(ADAPTER, [audio / "a.wav"], base=str(own), say=quiet)) == 1


# --- written down ------------------------------------------------------------------------------------------------


def table_of_two() -> pd.DataFrame:
    rows = [
        ("talk 1.wav", 0.0, 0.5, "SPEECH", 0.91234, 0.95, 500.0, "", None),
        ("talk 1.wav", 0.5, 2.0, "NONSPEECH", 0.2, 0.1, 1500.0, "clipped", None),
        ("bad.wav", np.nan, np.nan, None, np.nan, np.nan, np.nan, "", "is silent"),
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs["classes"] = ["SPEECH", "NONSPEECH"]
    return table


def test_every_format_holds_every_row():
    table = table_of_two()
    lines = [json.loads(line) for line in written(table, "jsonl").decode().splitlines()]
    assert lines[2] == {**dict.fromkeys(COLUMNS), "path": "bad.wav", "warnings": "", "error": "is silent"}
    assert lines[0]["p_speech"] == 0.91234
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(written(table, "parquet"))), table, check_dtype=False)
    assert len(pd.read_csv(io.BytesIO(written(table, "csv")))) == 3
    assert written(table, "rttm").decode() == "SPEAKER talk_1 1 0.000 0.500 <NA> <NA> SPEECH <NA> <NA>\n"
    twins = pd.concat([table.assign(path=f"{folder}/talk 1.wav") for folder in "ab"])
    twins.attrs = table.attrs
    said = [line.split()[1] for line in written(twins, "rttm").decode().splitlines()]
    assert said == ["a/talk_1.wav", "b/talk_1.wav"], "one name would join two recordings"
    music = table.replace({"label": {"SPEECH": "MUSIC"}})
    music.attrs["classes"] = ["MUSIC", "NONSPEECH"]
    assert written(music, "rttm").decode().split()[7] == "MUSIC"
    shown = written(table, "table").decode()
    assert "0.912" in shown
    assert "is silent" in shown
    assert "nan" not in shown.lower()


def test_rttm_without_a_segment_says_so_beside_the_empty_file(monkeypatch, capfd, tmp_path):
    table = table_of_two().query("label != 'SPEECH'")
    monkeypatch.setattr(answers, "predict", lambda *_, **__: table)
    out = tmp_path / "a.rttm"
    asked = ["earshot", "predict", ADAPTER, "talk 1.wav", "--window-ms", "500", "--format", "rttm", "--out", str(out)]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit):
        cli.main()
    assert out.read_bytes() == b""
    assert "earshot: 0 segments of SPEECH in 1 file\n" in capfd.readouterr().err
    assert none_found(table_of_two()) == ""


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("nodir/x.csv", "--out nodir/x.csv: there is no folder {here}/nodir; make it first"),
        ("there", "--out there is a folder; name a file in it"),
    ],
)
def test_where_answers_cannot_be_written_nothing_is_asked(monkeypatch, capsys, tmp_path, out, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(answers, "predict", lambda *_, **__: pytest.fail("the model was asked"))
    monkeypatch.setattr("sys.argv", ["earshot", "predict", ADAPTER, "a.wav", "--out", out])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"earshot: {said.format(here=tmp_path)}\n"


def test_the_documented_entry_point_is_five_lines_at_most_and_runs(adapter, audio, monkeypatch, capsys):
    page = (ROOT / "flows" / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "predict(" in block)
    assert len(code.strip().splitlines()) <= 5
    monkeypatch.chdir(audio)
    exec(code.replace("earshot/demo-adapter", ADAPTER).replace("recordings/", "a.wav"), {})
    assert "a.wav" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_answers_a_folder_and_what_comes_in_through_a_pipe(hub_home, audio):
    done = earshot(hub_home, "predict", ADAPTER, str(audio), "--format", "jsonl")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, len(rows)) == (1, 6)
    assert "3 of 6 files could not be asked" in done.err
    assert not done.loaded, "the model runs in a child"
    out = audio.parent / "answers.parquet"
    assert (
        earshot(hub_home, "predict", ADAPTER, str(audio / "a.wav"), "--format", "parquet", "--out", str(out)).code == 0
    )
    assert len(pd.read_parquet(out)) == 1


# --- a folder ----------------------------------------------------------------------------------------------------


def answer_folder(folder: Path, out: Path, confidence: float = 0.65) -> tuple[list[str], dict[str, int]]:
    """What the flow does, task by task."""
    new = find_new_files.fn(str(folder), str(out), ADAPTER)
    if not new:
        return [], {}
    told = answers.answer_files.fn(ADAPTER, str(folder), list(new), "cpu")
    return list(new), keep_answers.fn(told, new, str(out), ADAPTER, confidence)


def test_a_folder_is_answered_once_and_only_what_is_new_or_changed_again(adapter, audio, tmp_path):
    out = tmp_path / "answers"
    new, counts = answer_folder(audio, out)
    assert len(new) == counts["all"] == 6
    assert answer_folder(audio, out)[0] == []
    soundfile.write(audio / "sub" / "new.wav", noise(100, seed=3), 16_000)
    soundfile.write(audio / "a.wav", noise(150, seed=4), 16_000)
    new, counts = answer_folder(audio, out)
    assert new == ["a.wav", "sub/new.wav"]
    table = pd.read_parquet(out / "predictions.parquet").set_index("path")
    assert len(table) == counts["all"] == 7
    assert table.loc["a.wav", "duration_ms"] == 150
    assert sorted(file.name for file in out.iterdir()) == ["drift.json", "predictions.parquet", "review.parquet"]


def test_what_a_person_reviewed_is_read_back_by_a_source_and_never_overwritten(adapter, audio, tmp_path):
    from recipes.sources import TableSource
    from tasks.sources.files import recordings
    from tasks.sources.table import listing

    out = tmp_path / "answers"
    answer_folder(audio, out, confidence=1.0)
    review = pd.read_parquet(out / "review.parquet")
    assert review["file"].tolist() == ["a.wav", "sub/b.flac"]
    assert review["group_id"].tolist() == ["a.wav", "sub"]
    assert review["why"].str.contains("low confidence").all()
    assert "outside the card: 1000 ms long" in review["why"][1]
    block = TableSource(
        kind="table", root=str(audio), metadata=str(out / "review.parquet"), where={"status": ["reviewed"]}
    )
    with pytest.raises(ValueError, match="no row is left"):
        recordings(block, listing)
    heard = review.assign(status=["reviewed", "to review"], label=["SPEECH", "SPEECH"])
    heard.to_parquet(out / "review.parquet")
    (row,) = recordings(block, listing).to_dict("records")
    assert (row["path"], row["label"], row["group_id"]) == ("a.wav", "SPEECH", "a.wav")
    soundfile.write(audio / "a.wav", noise(150, seed=4), 16_000)
    answer_folder(audio, out, confidence=1.0)
    kept = pd.read_parquet(out / "review.parquet").set_index("file")
    assert kept.loc["a.wav", ["status", "label"]].tolist() == ["changed", "SPEECH"], "other audio than was heard"


def test_a_batch_that_is_answered_unlike_the_card_is_heard_in_samples(adapter, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(40):
        soundfile.write(folder / f"{i:02d}.wav", 0.3 * np.sin(np.arange(1600) * (0.1 + 0.01 * i)), 16_000)
    answer_folder(folder, tmp_path / "out", confidence=0.5)
    moved = json.loads((tmp_path / "out" / "drift.json").read_text())
    review = pd.read_parquet(tmp_path / "out" / "review.parquet")
    assert moved["clips"] == 40
    assert moved["flagged"] == (moved["p_value"] <= 0.01)
    assert (review["why"] == "drift of the batch").sum() == (20 if moved["flagged"] else 0)


def test_answers_never_lie_among_the_audio_and_no_other_table_is_taken_for_them(adapter, audio, tmp_path):
    with pytest.raises(ValueError, match="let the answers lie in a folder of their own"):
        find_new_files.fn(str(audio), str(audio), ADAPTER)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_new_files.fn(str(tmp_path / "gone"), str(tmp_path / "out"), ADAPTER)
    pd.DataFrame({"path": ["a"]}).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="is no table of answers"):
        find_new_files.fn(str(audio), str(tmp_path), ADAPTER)
