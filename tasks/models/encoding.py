"""From FLAC clips to what the language model hears, each clip encoded once wherever its encoder is frozen."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import nn

from tasks.audio_files import decode_flac, samples_of
from tasks.models import family
from tasks.models.batches import BatchSizes, ahead, on_device, on_host
from tasks.models.encoder_cache import EncoderCache, adapted, clip_key, encoder_revision
from tasks.models.families import facts_of, family_of

WORKERS = 4  # beside a GPU; more of them take the interpreter from the thread that sets the GPU to work
CHUNK = 32  # clips a worker makes ready at a time
ENCODED_AT_ONCE = 256  # clips on a GPU


def kept_encodings(model: nn.Module, processor: Any) -> EncoderCache | None:
    """The home's encodings for this model; None where adapters stand in its encoder."""
    return None if adapted(model) else EncoderCache(encoder_revision(model, processor))


class Ready(NamedTuple):
    """A clip as it comes from a thread: its vectors where they are known, its features where they are not."""

    key: str
    vectors: torch.Tensor | None
    clip: family.Clip | None

    @property
    def tokens(self) -> int:
        """Audio tokens of the clip."""
        return self.clip.tokens if self.clip else len(self.vectors if self.vectors is not None else ())


class Encoder:
    """The encoder and projector of one model, with the vectors it made before in `cache`."""

    def __init__(self, model: nn.Module, processor: Any, cache: EncoderCache | None) -> None:
        self.model = model
        self.processor = processor
        self.cache = cache
        self.rate = facts_of(model).rate
        self.device: torch.device = model.get_submodule(family_of(model).PARTS["encoder"]).device

    def readers(self) -> ThreadPoolExecutor:
        """Threads for `read`; beside a GPU each keeps to one core, for torch would start as many again in each."""
        if self.device.type == "cpu":
            return ThreadPoolExecutor(1)
        return ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,))

    def read_ahead(self, pool: ThreadPoolExecutor, clips: Sequence[bytes], costs: Sequence[int], sizes: BatchSizes
                   ) -> Iterator[Ready]:  # fmt: skip
        """Clips in their order, read in threads two batches ahead of the device; each costs so many tokens."""
        starts = range(0, len(clips), CHUNK)
        chunks = ((clips[at : at + CHUNK], sum(costs[at : at + CHUNK])) for at in starts)
        return itertools.chain.from_iterable(ahead(pool, self.read, chunks, lambda: 2 * sizes.tokens))

    def read(self, clips: Sequence[bytes]) -> list[Ready]:
        """Clips looked up, or decoded and their features computed.

        Raises ValueError for bytes that are no 16 kHz mono FLAC and for a clip of no audio token.
        """
        keys = [clip_key(clip) for clip in clips]
        known = [self.cache.get(key) if self.cache is not None else None for key in keys]
        waveforms = [decode_flac(clip) for clip, vectors in zip(clips, known, strict=True) if vectors is None]
        extracted = iter(family.extract(self.processor, waveforms) if waveforms else [])
        return [
            Ready(key, vectors, next(extracted) if vectors is None else None)
            for key, vectors in zip(keys, known, strict=True)
        ]

    def encode(self, ready: Sequence[Ready]) -> tuple[list[family.Encoded], dict[str, torch.Tensor]]:
        """The clips on the device, and the vectors that are new, on their way to the host.

        On a CPU every clip is encoded alone: its bits then depend on nothing but itself, whatever the cache holds.
        """
        known = [item.vectors for item in ready if item.vectors is not None]
        missing = [item for item in ready if item.clip is not None]
        at_once = 1 if self.device.type == "cpu" else ENCODED_AT_ONCE
        made: list[torch.Tensor] = []
        new: dict[str, torch.Tensor] = {}
        for start in range(0, len(missing), at_once):
            part = missing[start : start + at_once]
            clips = [item.clip for item in part if item.clip is not None]
            inputs = family.audio_inputs(clips)
            features = on_device(inputs["input_features"], self.device)
            vectors = family.encode(self.model, features, inputs["feature_attention_mask"])
            lengths = [clip.tokens for clip in clips]
            made += vectors.split(lengths)
            if self.cache is not None:
                new |= zip((item.key for item in part), on_host(vectors).split(lengths), strict=True)
        stored = on_device(torch.cat(known), self.device).split([len(vectors) for vectors in known]) if known else ()
        from_cache, from_encoder = iter(stored), iter(made)
        clips_here = [family.Encoded(next(from_encoder if item.vectors is None else from_cache)) for item in ready]
        return clips_here, new

    def keep(self, new: dict[str, torch.Tensor]) -> None:
        """Hand new vectors, which have reached the host, to the cache."""
        if self.cache is not None:
            for key, vectors in new.items():
                self.cache.put(key, vectors)

    def encode_all(self, clips: Sequence[bytes]) -> list[family.Encoded]:
        """Every clip's vectors on the host, in the order of the clips: what training with a frozen encoder takes."""
        sizes = BatchSizes(self.device, None)
        found: list[family.Encoded] = []
        tokens = [self.rate.audio_tokens(samples_of(clip)) for clip in clips]
        with self.readers() as pool, torch.no_grad():  # inference tensors could not be trained on
            feed = self.read_ahead(pool, clips, tokens, sizes)
            while ready := list(itertools.islice(feed, ENCODED_AT_ONCE)):
                encoded, new = self.encode(ready)
                found += [family.Encoded(clip.vectors.cpu()) for clip in encoded]
                self.keep(new)
        if self.cache is not None:
            self.cache.flush()
        return found
