"""Where the corpora come from: their licences, and the archives of those that may be downloaded by a script.

A checksum stands here where whoever gives the archive away publishes it; for the others the sha256 of the first download
is kept and compared from then on. GitHub packs a commit anew for whoever asks and promises nothing of the bytes: such an
archive is named by its commit, and the recordings that come out of it are counted.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple


class Volume(NamedTuple):
    """One file to download; an archive may come in several."""

    url: str
    checksum: str = ""  # "md5:...", "sha1:..." or "sha256:...", "" where none is published

    @property
    def name(self) -> str:
        """Its name on disk, one for each address: the archives of two repositories are both called master.zip."""
        address = self.url.partition("?")[0]
        return f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{address.rpartition('/')[2]}"


class Content(NamedTuple):
    """The recordings that an archive must hold."""

    pattern: str  # of their paths
    files: int


class Archive(NamedTuple):
    """A zip or tar, the folders above its files that are left away, and what it must hold."""

    volumes: tuple[Volume, ...]
    strip: int = 0
    content: Content | None = None


class Corpus(NamedTuple):
    """What is asked before a download, and what is downloaded."""

    title: str
    licence: str
    page: str
    folder: str  # under the root that is given; the `root` of the source
    parts: Mapping[str, tuple[Archive, ...]]  # what may be asked for one by one
    default: tuple[str, ...]
    always: tuple[Archive, ...] = ()  # what every part needs
    part_key: str = ""  # the key of the source that names its parts, where it has one


class Elsewhere(NamedTuple):
    """A corpus that a script may not or cannot download."""

    title: str
    licence: str
    page: str
    how: str


def _one(url: str, checksum: str = "", strip: int = 0) -> Archive:
    return Archive((Volume(url, checksum),), strip)


def _github(repository: str, commit: str, content: Content | None = None) -> tuple[Archive, ...]:
    return (Archive((Volume(f"https://github.com/{repository}/archive/{commit}.zip"),), 1, content),)


def _librispeech(subset: str, sha256: str) -> tuple[Archive, ...]:
    return (_one(f"https://www.openslr.org/resources/12/{subset}.tar.gz", f"sha256:{sha256}", strip=1),)


def _fsd50k(*md5s: tuple[str, str]) -> tuple[Archive, ...]:
    address = "https://zenodo.org/records/4060432/files/FSD50K."
    return (Archive(tuple(Volume(f"{address}{name}", f"md5:{md5}") for name, md5 in md5s)),)


def _voxconverse(part: str) -> tuple[Archive, ...]:
    return (_one(f"https://www.robots.ox.ac.uk/~vgg/data/voxconverse/data/voxconverse_{part}_wav.zip"),)


CORPORA: Mapping[str, Corpus] = {
    "librispeech": Corpus(
        "LibriSpeech, read English books", "CC BY 4.0", "https://www.openslr.org/12", "LibriSpeech",
        {  # sha256 as in torchaudio.datasets.librispeech
            "dev-clean": _librispeech("dev-clean", "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
            "dev-other": _librispeech("dev-other", "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
            "test-clean": _librispeech("test-clean", "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
            "test-other": _librispeech("test-other", "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
            "train-clean-100": _librispeech(
                "train-clean-100", "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"
            ),
            "train-clean-360": _librispeech(
                "train-clean-360", "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"
            ),
            "train-other-500": _librispeech(
                "train-other-500", "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"
            ),
        },
        ("dev-clean",),
    ),
    "voxconverse": Corpus(
        "VoxConverse, conversations from YouTube", "CC BY 4.0, for research; the videos remain their owners'",
        "https://www.robots.ox.ac.uk/~vgg/data/voxconverse/", "voxconverse",
        {"dev": _voxconverse("dev"), "test": _voxconverse("test")}, ("dev",),
        _github("joonson/voxconverse", "24bf60be297701cd7e4ef18550c6d390c1b87365"),
        "parts",
    ),
    "esc50": Corpus(
        "ESC-50, environmental sounds", "CC BY-NC 3.0 as a set; per clip in its LICENSE",
        "https://github.com/karolpiczak/ESC-50", "ESC-50-master",
        {"all": _github(
            "karolpiczak/ESC-50", "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6", Content("audio/*.wav", 2_000)
        )}, ("all",),
    ),
    "fsdd": Corpus(
        "Free Spoken Digit Dataset, 8 kHz", "CC BY-SA 4.0", "https://github.com/Jakobovski/free-spoken-digit-dataset",
        "free-spoken-digit-dataset",
        {"all": _github(  # the release v1.0.10
            "Jakobovski/free-spoken-digit-dataset", "d6938f9bf1545aa66d8489fc9f1385a7abd64282",
            Content("recordings/*.wav", 3_000),
        )}, ("all",),
    ),
    "audiomnist": Corpus(
        "AudioMNIST, spoken digits", "MIT", "https://github.com/soerenab/AudioMNIST", "AudioMNIST",
        {"all": _github(
            "soerenab/AudioMNIST", "630d7dab4c040882834de6fa21baf9a60372accd", Content("data/*/*.wav", 30_000)
        )}, ("all",),
    ),
    "musan": Corpus(
        "MUSAN, music, speech and noise", "CC BY 4.0, parts in the public domain; per file in its LICENSE files",
        "https://www.openslr.org/17", "musan",
        {"all": (_one(
            "https://www.openslr.org/resources/17/musan.tar.gz", "md5:0c472d4fc0c5141eca47ad1ffeb2a7df", strip=1
        ),)}, ("all",),
    ),
    "fsd50k": Corpus(
        "FSD50K, Freesound clips of 200 classes", "CC BY 4.0 as a set; per clip CC0, CC BY, CC BY-NC or Sampling+",
        "https://zenodo.org/records/4060432", "FSD50K",
        {
            "dev": _fsd50k(
                ("dev_audio.z01", "faa7cf4cc076fc34a44a479a5ed862a3"), ("dev_audio.z02", "8f9b66153e68571164fb1315d00bc7bc"),
                ("dev_audio.z03", "1196ef47d267a993d30fa98af54b7159"), ("dev_audio.z04", "d088ac4e11ba53daf9f7574c11cccac9"),
                ("dev_audio.z05", "81356521aa159accd3c35de22da28c7f"), ("dev_audio.zip", "c480d119b8f7a7e32fdb58f3ea4d6c5a"),
            ),
            "eval": _fsd50k(
                ("eval_audio.z01", "3090670eaeecc013ca1ff84fe4442aeb"),
                ("eval_audio.zip", "6fa47636c3a3ad5c7dfeba99f2637982"),
            ),
        },
        ("eval",),
        (*_fsd50k(("ground_truth.zip", "ca27382c195e37d2269c4c866dd73485")),
         *_fsd50k(("metadata.zip", "b9ea0c829a411c1d42adb9da539ed237"))),
    ),
    "fma": Corpus(
        "Free Music Archive, 8,000 tracks of 30 s", "per track, in fma_metadata/tracks.csv; metadata CC BY 4.0",
        "https://github.com/mdeff/fma", "fma",
        {"small": (_one(
            "https://os.unil.cloud.switch.ch/fma/fma_small.zip", "sha1:ade154f733639d52e35e32f5593efe5be76c6d70"
        ),)}, ("small",),
        (_one(
            "https://os.unil.cloud.switch.ch/fma/fma_metadata.zip", "sha1:f0df49ffe5f2a6008d7dc83c6915b31835dfe733"
        ),),
    ),
}  # fmt: skip

ELSEWHERE: Mapping[str, Elsewhere] = {
    "ami": Elsewhere(
        "AMI meetings", "CC BY 4.0", "https://groups.inf.ed.ac.uk/ami/download/",
        "choose the meetings and the microphone there (Mix-Headset), and take the RTTM files from "
        "https://github.com/pyannote/AMI-diarization-setup; both go under one folder",
    ),
    "common_voice": Elsewhere(
        "Mozilla Common Voice", "CC0 1.0", "https://commonvoice.mozilla.org/datasets",
        "the address of an archive is given out after its terms are agreed to; unpack one language",
    ),
    "gtzan": Elsewhere(
        "GTZAN, music in ten genres", "unstated", "http://marsyas.info/downloads/datasets.html",
        "nobody states a licence for it, so it is not fetched; a folder of ten genre folders is what is read",
    ),
}  # fmt: skip
