"""Training clips as they are heard in one epoch: with other noise and other masks than in the last."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.training import AugmentBlock, NoiseBlock
from tasks.audio_files import decode_flac, samples_of
from tasks.functional.augment import add_noise, gaussian_noise, spec_augment, stretch_of
from tasks.models import family


class Augmented:
    """Clip i of the current epoch. What is drawn depends on seed, epoch and clip alone, so that a run that was killed and
    goes on hears what an unbroken one hears.

    `noises`: rows of training clips of the second class, what `noise: {kind: clips}` adds. Raises ValueError where it is
    asked of fewer than two: no clip is its own noise.
    """

    def __init__(
        self,
        processor: Any,
        flacs: Sequence[bytes],
        plain: Sequence[family.Clip],
        block: AugmentBlock,
        seed: int,
        noises: Sequence[int] = (),
    ) -> None:
        self.processor = processor
        self.flacs = flacs
        self.plain = plain
        self.block = block
        self.seed = seed
        self.noises = np.array(noises, dtype=np.int64)
        if block.noise and block.noise.kind == "clips" and len(noises) < 2:
            raise ValueError(
                f"augment.noise.kind clips: {len(noises)} training clips are of the second class and two are needed; "
                "set augment.noise.kind=pink"
            )
        self.lengths = np.array([samples_of(flacs[row]) for row in noises])

    def heard(self, row: int, epoch: int) -> family.Clip:
        """Features of one clip, of as many frames as without augmentation."""
        key = [self.seed, epoch, row]
        draw = np.random.default_rng(key)
        with_noise, with_masks = draw.random(2)
        clip, noise, masks = self.plain[row], self.block.noise, self.block.spec_augment
        if noise and with_noise < noise.p:
            (clip,) = family.extract(self.processor, [self.noisy(row, noise, draw, [*key, 1])])
        if masks and with_masks < masks.p:
            masked = spec_augment(
                clip.features.numpy(), min(clip.frames, clip.features.shape[1]), time_share=masks.time_share,
                mel_bins=masks.mel_bins, time_masks=masks.time_masks, mel_masks=masks.mel_masks, seed=[*key, 2],
            )  # fmt: skip
            clip = clip._replace(features=torch.from_numpy(masked))
        return clip

    def noisy(self, row: int, noise: NoiseBlock, draw: np.random.Generator, seed: list[int]) -> NDArray[np.float32]:
        """The waveform of one clip with noise at an SNR that is drawn."""
        samples, snr_db = decode_flac(self.flacs[row]), float(draw.uniform(*noise.snr_db))
        if noise.kind == "clips":
            other = decode_flac(self.flacs[self.another(row, len(samples), draw)])
            return add_noise(samples, stretch_of(other, len(samples), seed=seed), snr_db)
        return add_noise(samples, gaussian_noise(len(samples), colour=noise.kind, seed=seed), snr_db)

    def another(self, row: int, n: int, draw: np.random.Generator) -> int:
        """A row to take noise from: not the clip itself, and of `n` samples, or as many as there are, if it can be."""
        others = self.noises != row
        enough = min(n, int(self.lengths[others].max()))
        return int(draw.choice(self.noises[others & (self.lengths >= enough)]))
