"""Corpora in miniature: the layout of each, filled with noise."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from recipes.sources import KINDS, FileSource

Extra = dict[str, Any]
RATE_HZ = 8_000


def sound(file: Path, seconds: float = 0.4, rate_hz: int = RATE_HZ) -> Path:
    """A file of noise, the same for the same path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(file.name.encode()))
    soundfile.write(file, rng.uniform(-0.5, 0.5, round(seconds * rate_hz)), rate_hz)
    return file


def text(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def rttm(file: Path, *turns: tuple[float, float, str]) -> None:
    """Turns as (start, duration, speaker)."""
    text(file, "".join(f"SPEAKER {file.stem} 1 {a} {d} <NA> <NA> {who} <NA> <NA>\n" for a, d, who in turns))


def librispeech(root: Path) -> Extra:
    for reader, chapter in (("14", "208"), ("14", "212"), ("16", "122797"), ("17", "1")):
        for k in range(2):
            sound(root / "dev-clean" / reader / chapter / f"{reader}-{chapter}-000{k}.flac")
    text(
        root / "SPEAKERS.TXT",
        "; comment\n;ID  |SEX| SUBSET           |MINUTES| NAME\n14   | F | dev-clean  | 25.03 | Ann | B.\n"
        "16   | F | dev-clean  | 25.11 | Dawn\n17   | M | dev-clean  | 2.11 | Dawn\n",
    )
    return {}


def voxconverse(root: Path) -> Extra:
    rttm(root / "dev/abjxc.rttm", (0.0, 2.0, "spk00"), (1.5, 1.5, "spk01"), (3.2, 0.3, "spk00"))
    rttm(root / "dev/bspxd.rttm", (0.5, 3.0, "spk00"))
    for name in ("abjxc", "bspxd"):
        sound(root / "audio" / f"{name}.wav", 4.0)
    return {"parts": ["dev"], "min_s": 0.5, "max_s": 2.0}


def ami(root: Path) -> Extra:
    for meeting in ("ES2002a", "ES2002b", "IS1000a"):
        rttm(root / f"only_words/rttms/train/{meeting}.rttm", (0.5, 1.0, "FEE005"), (2.0, 1.0, f"MEE{meeting[0]}1"))
        sound(root / f"amicorpus/{meeting}/audio/{meeting}.Mix-Headset.wav", 3.5)
        sound(root / f"amicorpus/{meeting}/audio/{meeting}.Headset-0.wav", 3.5)
    return {}


def common_voice(root: Path) -> Extra:
    rows = ["client_id\tpath\tsentence\tgender", 'ann\tcv_1.mp3\tShe said "no.\tfemale', "ann\tcv_2.mp3\tYes.\tfemale",
            "bob\tcv_3.mp3\tPerhaps.\t"]  # fmt: skip
    text(root / "validated.tsv", "\n".join(rows) + "\n")
    for k in (1, 2, 3):
        sound(root / f"clips/cv_{k}.mp3", rate_hz=16_000)
    return {}


def audiomnist(root: Path) -> Extra:
    for speaker in ("01", "02"):
        for digit in (3, 7):
            sound(root / f"data/{speaker}/{digit}_{speaker}_0.wav")
    speakers = {"01": {"accent": "German", "age": 30, "gender": "male", "native speaker": "no"}, "02": {"age": "1234"}}
    text(root / "data/audioMNIST_meta.txt", json.dumps(speakers))
    return {}


def fsdd(root: Path) -> Extra:
    for name in ("7_jackson_0", "7_jackson_1", "3_lucas_0"):
        sound(root / f"recordings/{name}.wav")
    return {}


def esc50(root: Path) -> Extra:
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    credits = ["# ESC-50", ""]
    for name, category, esc10, user, licence in (
        ("1-100-A-0", "dog", True, "ann", "CC0"), ("1-100-B-0", "dog", True, "ann", "CC0"),
        ("4-100-A-6", "hen", False, "ann", "CC0"), ("2-200-A-10", "rain", True, "Bob by night", "CC-BY"),
        ("3-300-A-26", "laughing", False, "cy", "CC-BY-NC"), ("3-400-A-41", "chainsaw", True, "", ""),
    ):  # fmt: skip
        fold, source, take, target = name.split("-")
        rows.append(f"{name}.wav,{fold},{target},{category},{esc10},{source},{take}")
        if user:
            clip = f"{fold}-{source}-{'Bd' if take == 'B' else take}.ogg"  # the real LICENSE misspells one such
            address = f"http://www.freesound.org/people/x/sounds/{source}/"
            credits.append(f"- [{clip}]: clip derived from a by b.wav ({address}) by {user} [{licence}]")
        sound(root / f"audio/{name}.wav")
    text(root / "meta/esc50.csv", "\n".join(rows) + "\n")
    text(root / "LICENSE", "\n".join(credits) + "\n")
    return {}


def fsd50k(root: Path) -> Extra:
    dev = {"63": "Electric_guitar,Guitar,Musical_instrument,Music", "99": "Bark,Dog,Animal", "100": "Rain,Water",
           "101": "Male_speech_and_man_speaking,Speech,Human_voice", "102": "Laughter,Human_voice"}  # fmt: skip
    rows = [f'{name},"{labels}","/m/1",{"val" if name == "100" else "train"}' for name, labels in dev.items()]
    text(root / "FSD50K.ground_truth/dev.csv", "fname,labels,mids,split\n" + "\n".join(rows) + "\n")
    text(root / "FSD50K.ground_truth/eval.csv", 'fname,labels,mids\n7,"Bark,Dog,Animal","/m/1"\n')
    urls = ("publicdomain/zero/1.0/", "licenses/by/3.0/", "licenses/by-nc/3.0/", "licenses/sampling+/1.0/", "")
    about = {
        name: {"title": "t", "uploader": "ann", "license": f"http://creativecommons.org/{url}"}
        for name, url in zip(dev, urls, strict=True)
    }
    text(root / "FSD50K.metadata/dev_clips_info_FSD50K.json", json.dumps(about))
    text(root / "FSD50K.metadata/eval_clips_info_FSD50K.json", json.dumps({"7": {"uploader": "bob"}}))
    for name in dev:
        sound(root / f"FSD50K.dev_audio/{name}.wav")
    sound(root / "FSD50K.eval_audio/7.wav")
    return {}


def musan(root: Path) -> Extra:
    sound(root / "music/fma/music-fma-0000.wav", 2.5)
    sound(root / "music/fma/music-fma-0001.wav")
    sound(root / "music/fma/music-fma-0002.wav")
    sound(root / "noise/free-sound/noise-free-sound-0000.wav", 0.7)
    sound(root / "speech/librivox/speech-librivox-0000.wav", 1.5)
    text(root / "music/fma/ANNOTATIONS", "music-fma-0000 pop,folk N Some_Artist\nmusic-fma-0001 rock Y Some_Artist\n")
    return {"max_s": 0.5, "per_group": 3}


def gtzan(root: Path) -> Extra:
    for name in ("blues.00000", "blues.00001", "jazz.00054"):
        sound(root / f"genres_original/{name.partition('.')[0]}/{name}.wav")
    sound(root / "images_original/blues/blues00000.wav")
    return {}


def fma(root: Path) -> Extra:
    rows = ["track_id,artist,album,track,track,set,set", ",id,id,genre_top,license,subset,split", "track_id,,,,,,",
            "2,1,1,Hip-Hop,Attribution-NonCommercial 3.0,small,training", "5,1,1,,,small,test",
            "7,4,9,Spoken,CC0,medium,training"]  # fmt: skip
    text(root / "fma_metadata/tracks.csv", "\n".join(rows) + "\n")
    for track in ("000002", "000005", "000007", "000009"):
        sound(root / f"fma_small/000/{track}.mp3", 1.2, 16_000)
    return {"max_s": 0.5, "per_group": 1}


def folder(root: Path) -> Extra:
    for speaker in ("ann", "bob"):
        sound(root / f"voices/{speaker}/one/1.wav")
        sound(root / f"voices/{speaker}/two/1.FLAC")
    for breed in ("rex", "fido"):
        sound(root / f"dogs/{breed}/1.wav")
    text(root / "notes/readme.txt", "no audio")
    return {"labels": {"voices": "SPEECH", "dogs": "NONSPEECH"}}


CORPORA: Mapping[str, Callable[[Path], Extra]] = {
    build.__name__: build
    for build in (
        ami,
        audiomnist,
        common_voice,
        esc50,
        fma,
        folder,
        fsd50k,
        fsdd,
        gtzan,
        librispeech,
        musan,
        voxconverse,
    )
}


# --- large enough to deal ----------------------------------------------------------------------------------------

GROUPS = 40  # of each class and family: three parts, or five folds, have some of each


def many_voices(root: Path) -> None:
    for k in range(GROUPS):
        rttm(root / f"{('dev', 'test')[k % 2]}/f{k:02d}.rttm", (0.0, 2.2, "spk00"), (2.3, 2.2, "spk01"))
        silent(root / f"audio/f{k:02d}.wav", 4.6)


def many_sounds(root: Path) -> None:
    rows, credits = ["filename,fold,target,category,esc10,src_file,take"], []
    for k in range(2 * GROUPS):
        target, category = ((0, "dog"), (10, "rain"))[k % 2]
        rows.append(f"1-{k}-A-{target}.wav,1,{target},{category},True,{k},A")
        credits.append(f"- [1-{k}-A.ogg]: clip derived from a by b.wav (http://x/sounds/{k}/) by user{k} [CC-BY]")
        silent(root / f"audio/1-{k}-A-{target}.wav", 4.0)
    text(root / "meta/esc50.csv", "\n".join(rows) + "\n")
    text(root / "LICENSE", "\n".join(credits) + "\n")


def many_freesounds(root: Path) -> None:
    rows, about = ["fname,labels,mids,split"], {}
    for k in range(4 * GROUPS):
        labels = ("Speech,Human_voice", "Rain,Water")[k % 2]
        rows.append(f'{k},"{labels}","/m/1",train')
        about[str(k)] = {
            "title": "t",
            "uploader": f"user{k}",
            "license": "http://creativecommons.org/licenses/by/3.0/",
        }
        silent(root / f"FSD50K.dev_audio/{k}.wav", 4.0)
    text(root / "FSD50K.ground_truth/dev.csv", "\n".join(rows) + "\n")
    text(root / "FSD50K.ground_truth/eval.csv", "fname,labels,mids\n")
    text(root / "FSD50K.metadata/dev_clips_info_FSD50K.json", json.dumps(about))
    text(root / "FSD50K.metadata/eval_clips_info_FSD50K.json", "{}")
    (root / "FSD50K.eval_audio").mkdir()


def many_songs(root: Path) -> None:
    for k in range(GROUPS):
        silent(root / f"genres_original/jazz/jazz.{k:05d}.wav", 4.0)


def many_noises(root: Path) -> None:
    for k in range(GROUPS):
        silent(root / f"noise/free-sound/noise-free-sound-{k:04d}.wav", 4.0)
    silent(root / "music/fma/music-fma-0000.wav", 4.0)
    text(root / "music/fma/ANNOTATIONS", "music-fma-0000 pop N Some_Artist\n")


def silent(file: Path, seconds: float) -> None:
    """A WAV of zeros: what is planned reads its header alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.zeros(round(seconds * 100)), 100)


LARGER: Mapping[str, Callable[[Path], None]] = {
    "voxconverse": many_voices, "esc50": many_sounds, "fsd50k": many_freesounds, "gtzan": many_songs, "musan": many_noises,
}  # fmt: skip


def corpus(kind: str, root: Path, **changes: Any) -> FileSource:
    """The block of a miniature that is built under `root`."""
    block = KINDS[kind].model_validate({"kind": kind, "root": str(root), **CORPORA[kind](root), **changes})
    assert isinstance(block, FileSource)
    return block
