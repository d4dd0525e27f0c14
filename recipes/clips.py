"""Which clips a part has: the levels of each factor, and how they come together."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from recipes.block import Block, Count, Seed, distinct
from recipes.sampling import OF_DESIGN
from recipes.training import PretrainBlock

SHARD_CLIPS = 2_000
SAMPLE_RATE_HZ = 16_000  # fixed by the feature extractor of Qwen2-Audio


class ContextBlock(Block):
    """Padding inside the waveform, as a declared condition: without it 10-20 ms give the model no audio token."""

    kind: Literal["silence", "noise"]
    total_ms: float = Field(ge=25, le=30_000)  # of the waveform, clip and padding

    @property
    def named(self) -> str:
        """As clips and reports speak of it."""
        return f"{self.kind} to {self.total_ms:g} ms"


FAMILIES = ("environment", "music", "animals", "noise")


def _families(given: Any) -> Any:
    return FAMILIES if given is True else () if given in (False, None) else given


Duration = Annotated[float, Field(ge=10, le=30_000)]
Snr = Annotated[float, Field(ge=-40, le=60)] | None  # null: no noise added; 16 bits keep no noise much below 60 dB
Band = Literal["clean", "phone", "am_radio", "lowpass", "highpass"]


def _named_room(room: float | str | None) -> float | str | None:
    if isinstance(room, str) and room.strip().lower() in ("", "none", "null", "anechoic", "dry"):
        raise ValueError(f"room {room!r}: write null for no room; a name is the category of a source with role room")
    if isinstance(room, str) and re.fullmatch(r"[\d.]+", room):
        raise ValueError(f"room {room!r}: an RT60 is a number, without quotes")
    return room


# RT60 in s, the category of measured rooms, null: anechoic
Room = Annotated[Annotated[float, Field(gt=0, le=5)] | str | None, AfterValidator(_named_room)]


def room_name(room: float | str | None) -> str:
    """A room as reports speak of it: by its RT60 where it is known by that, else by its own name."""
    if room is None:
        return "anechoic"
    try:
        return f"rt60 {float(room):g} s"
    except ValueError:
        return str(room)


class ReferenceBlock(Block):
    """The condition that a one-at-a-time design leaves in one factor at a time."""

    duration_ms: Duration = 1000
    snr_db: Snr = None
    band: Band = "clean"
    room: Room = None
    alone: bool = False  # also a condition of its own, beside the levels that equal it


class ClipsBlock(Block):
    """Which clips each part has: the levels of each factor, and how they come together.

    `factorial` puts `per_cell` clips of each class into every combination; `margins` spreads `per_class` clips of each
    class over the combinations so that every level has equally many, for numbers that do not divide; `one_at_a_time`
    renders the same `per_class` cuts of each class in the reference and in every level of every factor. There are as many
    as are asked for, whatever the recordings hold: where they hold fewer, the clips of a condition share audio, which the
    plan, the log and the card say.
    """

    design: Literal["factorial", "margins", "one_at_a_time"] = "factorial"
    duration_ms: tuple[Duration, ...] = Field(min_length=1)  # under 25 a context is needed
    snr_db: tuple[Snr, ...] = Field(min_length=1)  # null: no noise is added
    band: tuple[Band, ...] = Field(("clean",), min_length=1)  # clip and noise are limited alike
    room: tuple[Room, ...] = Field((None,), min_length=1)  # RT60 in s, or the category of measured rooms
    reference: ReferenceBlock = ReferenceBlock()  # read by one_at_a_time
    per_cell: Count | Mapping[str, Count] | None = None  # of factorial; for every part alike or by part
    per_class: Count | Mapping[str, Count] | None = None  # of the other two, likewise
    context: ContextBlock | None = None
    # equal shares of these families in every cell of the second class; true: FAMILIES. Wants splits.by_family
    balance_families: Annotated[tuple[str, ...], BeforeValidator(_families), AfterValidator(distinct)] = ()
    normalise: Literal["peak", "rms"] = "peak"  # rms only to show what it costs: it hands the level to the model
    seed: Seed = 7  # of crops, noise stretches and draws

    @field_validator("duration_ms", "snr_db", "band", "room")
    @classmethod
    def _distinct(cls, levels: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(levels)

    @property
    def counts_by(self) -> Literal["per_cell", "per_class"]:
        """The key that says how many clips there are."""
        return "per_cell" if self.design == "factorial" else "per_class"

    @model_validator(mode="after")
    def _counted(self) -> Self:
        asked, other = self.counts_by, "per_class" if self.design == "factorial" else "per_cell"
        if getattr(self, asked) is None or getattr(self, other) is not None:
            raise ValueError(f"design {self.design} counts by `{asked}`: give it, and no `{other}`")
        return self

    @model_validator(mode="after")
    def _heard(self) -> Self:
        longest, shortest = max(self.durations_ms), min(self.durations_ms)
        if self.context:
            if self.context.total_ms < longest:
                raise ValueError(f"context.total_ms ({self.context.total_ms:g}) is shorter than the longest clip")
        elif shortest <= 20:
            raise ValueError(
                f"duration_ms {shortest:g} gives the model no audio token (20 ms and less give none): "
                "raise it to 25 or declare a context, e.g. `context: {kind: noise, total_ms: 200}`"
            )
        return self

    @property
    def durations_ms(self) -> tuple[float, ...]:
        """Every duration that occurs."""
        return (*self.duration_ms, *((self.reference.duration_ms,) if self.design == "one_at_a_time" else ()))

    @property
    def bands(self) -> tuple[str, ...]:
        """Every band that occurs."""
        reference = (self.reference.band,) if self.design == "one_at_a_time" else ()
        return tuple(dict.fromkeys((*self.band, *reference)))

    @property
    def levels(self) -> dict[str, list[Any]]:
        """Factor, as the clips' column is called, -> every level of it that occurs."""
        alone, its = self.design == "one_at_a_time", self.reference
        rooms = map(room_name, (*self.room, *((its.room,) if alone else ())))
        return {
            "duration_ms": sorted(self.durations_ms),
            "snr_db": [*self.snr_db, *((its.snr_db,) if alone else ())],
            "band": [*self.bands],
            "room": [*rooms],
            "context": [self.context.named if self.context else "none"],
            "varied": [*(("none",) if its.alone else ()), *OF_DESIGN] if alone else [None],
        }

    @property
    def conditions(self) -> int:
        """How many conditions there are."""
        sizes = [len(levels) for levels in (self.duration_ms, self.snr_db, self.band, self.room)]
        return sum(sizes) + self.reference.alone if self.design == "one_at_a_time" else math.prod(sizes)

    @property
    def clips_of_a_class(self) -> int:
        """Clips of each class in one part, where the number is that part's own (`DatasetRecipe.clips_of`)."""
        assert isinstance(self.per_part, int), "a part's block comes from DatasetRecipe.clips_of"
        return self.per_part if self.design == "margins" else self.conditions * self.per_part

    @property
    def shards(self) -> int:
        """Shards that one part is rendered in: each is a task of its own, kept when a run is killed."""
        return math.ceil(2 * self.clips_of_a_class / SHARD_CLIPS)

    @property
    def per_part(self) -> int | Mapping[str, int]:
        """Clips per cell or per class, for every part alike or by part."""
        given: int | Mapping[str, int] | None = getattr(self, self.counts_by)
        assert given is not None, "_counted saw to it"
        return given

    @property
    def noise_ms(self) -> float:
        """Least length of a noise recording beyond that of the clip: a noisy context takes one stretch of noise."""
        return self.context.total_ms if self.context and self.context.kind == "noise" else 0.0

    @property
    def longest_ms(self) -> float:
        """Length of the longest waveform the model gets."""
        return self.context.total_ms if self.context else max(self.durations_ms)

    @property
    def shortest_ms(self) -> float:
        """Length of the shortest waveform the model gets."""
        return self.context.total_ms if self.context else min(self.durations_ms)


def clean_block(pretrain: PretrainBlock, parts: int) -> ClipsBlock:
    """What a tiny base hears of one of `parts` training parts: clean clips, both classes alike."""
    per_cell = max(1, pretrain.clips // (2 * parts))
    return ClipsBlock(duration_ms=(pretrain.duration_ms,), snr_db=(None,), per_cell=per_cell, seed=pretrain.seed)
