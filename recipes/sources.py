"""Where recordings come from: a block for every kind of source, with its keys and their units."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from recipes.block import WORD, Block, Seed, is_pinned


def _as_texts(where: Any) -> Any:
    """One value or many, as text: tables are read as text."""
    if not isinstance(where, Mapping):
        return where
    many = {column: value if isinstance(value, list | tuple) else (value,) for column, value in where.items()}
    return {column: tuple(str(value) for value in values) for column, values in many.items()}


class SourceBlock(Block):
    """What every source takes."""

    kind: str
    # column -> the values that are kept: our columns (label, category, family, group_id, licence ...) and the corpus's own
    where: Annotated[Mapping[str, tuple[str, ...]], BeforeValidator(_as_texts)] = Field(default_factory=dict)

    @property
    def left_out(self) -> str:
        """What the source leaves out unless a key says otherwise; "" for nothing."""
        return ""


# --- generated ---------------------------------------------------------------------------------------------------


class EspeakSource(SourceBlock):
    """Synthetic speech by espeak-ng; a voice is a group. Needs the extra `demo`."""

    kind: Literal["espeak"]
    role: Literal["content"] = "content"
    label: str = "SPEECH"
    voices: int = Field(24, ge=2, le=60)
    utterances: int = Field(4, ge=1, le=40)  # per voice
    seed: Seed = 0


class SyntheticSource(SourceBlock):
    """Generated sounds; a draw is a group and its generator the supergroup. `role: noise` is what gets mixed in."""

    kind: Literal["synthetic"]
    label: str = "NONSPEECH"
    role: Literal["content", "noise"] = "content"
    families: tuple[Literal["noise", "environment", "music", "animals"], ...] = (
        "noise", "environment", "music", "animals",
    )  # fmt: skip
    draws: int = Field(4, ge=1, le=200)  # per generator
    duration_s: float = Field(4.0, ge=1, le=30)
    seed: Seed = 0


class RoomsSource(SourceBlock):
    """Synthetic rooms (exponentially decaying impulse responses); a draw is a group, its RT60 the factor level."""

    kind: Literal["rooms"]
    role: Literal["room"] = "room"
    rt60_s: tuple[Annotated[float, Field(gt=0, le=5)], ...]
    draws: int = Field(6, ge=1, le=200)  # per RT60
    seed: Seed = 0


# --- files -------------------------------------------------------------------------------------------------------


class FileSource(SourceBlock):
    """Recordings that lie as files under a folder, which stays as it is."""

    root: str  # a folder; "${EARSHOT_CORPUS}" reads the environment
    # content has a class; noise is mixed into it; a room is an impulse response it is heard in
    role: Literal["content", "noise", "room"] = "content"
    label: str | None = None  # the class of all its content
    max_s: float | None = Field(
        None, ge=0.1, le=1800
    )  # longer recordings, rooms excepted, are cut into equal stretches no longer than this
    per_group: int | None = Field(None, ge=1)  # at most so many recordings of a group, spread evenly over it
    on_bad_file: Literal["fail", "skip"] = "fail"  # skip: left out, and listed


class SpeechSource(FileSource):
    """A corpus of speech."""

    role: Literal["content", "noise"] = "content"
    label: str = "SPEECH"


class SoundSource(FileSource):
    """A corpus of other sounds; `role: noise` makes them what gets mixed in."""

    role: Literal["content", "noise"] = "content"
    label: str = "NONSPEECH"


class TurnsSource(SpeechSource):
    """Conversations with RTTM files: the stretches in which one speaker talks alone."""

    min_s: float = Field(0.5, ge=0.05)  # shorter stretches are left out
    max_s: float = Field(10.0, ge=0.1, le=1800)
    per_group: int | None = Field(20, ge=1)


class VoxConverseSource(TurnsSource):
    """VoxConverse; a speaker within a file is a group, the file its supergroup."""

    kind: Literal["voxconverse"]
    parts: tuple[Literal["dev", "test"], ...] = Field(("dev", "test"), min_length=1)


class AmiSource(TurnsSource):
    """AMI meetings; a speaker is a group, the series of meetings the supergroup."""

    kind: Literal["ami"]
    microphone: str = Field("Mix-Headset", pattern=WORD)  # which of a meeting's files: MEETING.MICROPHONE.wav


class LibriSpeechSource(SpeechSource):
    """LibriSpeech; a reader is a group. `where: {subset: dev-clean}` takes one of its folders."""

    kind: Literal["librispeech"]


class CommonVoiceSource(SpeechSource):
    """One language of Mozilla Common Voice; a client_id is a group."""

    kind: Literal["common_voice"]
    table: Literal["validated", "train", "dev", "test"] = "validated"
    per_group: int | None = Field(20, ge=1)


class AudioMnistSource(SpeechSource):
    """AudioMNIST, spoken digits; a speaker is a group."""

    kind: Literal["audiomnist"]


class FsddSource(SpeechSource):
    """Free Spoken Digit Dataset (8 kHz: nothing above 4 kHz); a speaker is a group."""

    kind: Literal["fsdd"]


class Esc50Source(SoundSource):
    """ESC-50; a Freesound recording is a group, its uploader the supergroup."""

    kind: Literal["esc50"]
    keep_human: bool = False  # the ten categories of the group "human, non-speech sounds"

    @property
    def left_out(self) -> str:
        return "" if self.keep_human else f"the human group ({', '.join(ESC50_HUMAN)})"


class TakenSource(SoundSource):
    """A corpus that holds both classes: a block takes one of them."""

    take: Literal["nonspeech", "speech"] = "nonspeech"

    @model_validator(mode="before")
    @classmethod
    def _label_of_speech(cls, given: Any) -> Any:
        return {"label": "SPEECH", **given} if isinstance(given, Mapping) and given.get("take") == "speech" else given


class Fsd50kSource(TakenSource):
    """FSD50K; a Freesound recording is a group, its uploader the supergroup. Speech: labelled so; nonspeech: no voice."""

    kind: Literal["fsd50k"]

    @property
    def left_out(self) -> str:
        return "" if self.take == "speech" else f"clips with one of the labels {', '.join(FSD50K_HUMAN)}"


class MusanSource(TakenSource):
    """MUSAN; a file is a group, the artist of music its supergroup. Nonspeech is music and noise, by `family`."""

    kind: Literal["musan"]
    keep_vocals: bool = False  # music that is marked as sung, or not marked at all
    max_s: float | None = Field(10.0, ge=0.1, le=1800)
    per_group: int | None = Field(3, ge=1)

    @property
    def left_out(self) -> str:
        return "" if self.keep_vocals or self.take == "speech" else "music that is not marked as free of vocals"


class GtzanSource(SoundSource):
    """GTZAN; a file is a group. Much of it is sung, and nothing says which."""

    kind: Literal["gtzan"]


class FmaSource(SoundSource):
    """Free Music Archive; a track is a group, its artist the supergroup. Much of it is sung, and nothing says which."""

    kind: Literal["fma"]
    keep_spoken: bool = False  # the genre "Spoken"
    max_s: float | None = Field(10.0, ge=0.1, le=1800)
    per_group: int | None = Field(1, ge=1)

    @property
    def left_out(self) -> str:
        return "" if self.keep_spoken else "tracks of the genre Spoken"


class FolderSource(FileSource):
    """Any folder of audio files. A class for all, or the folders right under root are the classes. With `group_by: folder` a
    group is the folder that a file lies in, its supergroup the first folder under root (of `labels` and rooms: the second),
    and supergroups are dealt whole: over speech/CORPUS/SPEAKER/FILE root is speech/CORPUS, one source a corpus, for with
    root speech all of a corpus would go to one part. With `group_by: file` a file is its own group and supergroup."""

    kind: Literal["folder"]
    labels: Mapping[str, str] = Field(default_factory=dict)  # folder under root -> class; the others are left out
    group_by: Literal["folder", "file"] = "folder"  # folder: what lies together is one group; file: each on its own
    family: str = ""  # environment, music, animals or noise; speech for speech
    licence: str = "unstated"
    max_s: float | None = Field(30.0, ge=0.1, le=1800)

    @model_validator(mode="after")
    def _one_class_or_many(self) -> Self:
        if self.role == "content" and bool(self.label) == bool(self.labels):
            raise ValueError("give either `label: CLASS` for all files or `labels: {folder: CLASS}`")
        return self


# --- tables of the user's own columns ----------------------------------------------------------------------------


class MappedSource(SourceBlock):
    """A table with columns of its own: `where` names theirs."""

    columns: Mapping[str, str] = Field(default_factory=dict)  # our column -> theirs, where the names differ
    labels: Mapping[str, str] = Field(default_factory=dict)  # their label -> ours, where the names differ


class TableSource(MappedSource, FileSource):
    """Any folder with a metadata table (csv or parquet) that names file, label and group columns."""

    kind: Literal["table"]
    metadata: str = "metadata.csv"


class DatasetsSource(MappedSource):
    """A `datasets` repository with an audio column: a folder, or one of the Hub at a pinned revision."""

    kind: Literal["datasets"]
    repo: str  # NAMESPACE/NAME@<40 hex digits>, or a folder ("./mine", "/data/mine", "${MINE}")
    config: str | None = None
    split: str = "train"
    audio: str = "audio"  # the column of the audio
    role: Literal["content", "noise", "room"] = "content"
    label: str | None = None  # the class of all rows, where no column says it
    on_bad_file: Literal["fail", "skip"] = "fail"

    @field_validator("repo")
    @classmethod
    def _pinned(cls, repo: str) -> str:
        if not is_folder(repo) and not is_pinned(repo):
            raise ValueError(
                f"{repo!r} is neither a folder (./mine, /data/mine) nor a data set of the Hub with its revision: "
                "NAMESPACE/NAME@<40 hex digits>"
            )
        return repo


def is_folder(name: str) -> bool:
    """Whether a recipe means a folder of this machine and not a repository of the Hub."""
    return name.startswith((".", "/", "~", "$"))


# --- all of them -------------------------------------------------------------------------------------------------

ESC50_HUMAN = (
    "crying_baby", "sneezing", "clapping", "breathing", "coughing", "footsteps", "laughing", "brushing_teeth", "snoring",
    "drinking_sipping",
)  # fmt: skip
FSD50K_HUMAN = ("Human_voice", "Human_group_actions", "Respiratory_sounds", "Speech", "Singing")  # with all below them

Source = Annotated[
    EspeakSource | SyntheticSource | RoomsSource | VoxConverseSource | AmiSource | LibriSpeechSource | CommonVoiceSource
    | AudioMnistSource | FsddSource | Esc50Source | Fsd50kSource | MusanSource | GtzanSource | FmaSource | FolderSource
    | TableSource | DatasetsSource,
    Field(discriminator="kind"),
]  # fmt: skip
KINDS: Mapping[str, type[SourceBlock]] = {
    get_args(block.model_fields["kind"].annotation)[0]: block for block in get_args(get_args(Source)[0])
}
