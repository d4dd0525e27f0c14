"""Training clips as they are heard in one epoch: with other noise and other masks than in the last."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recipes.training import AugmentBlock
from tasks.audio_files import decode_flac
from tasks.functional.augment import add_noise, spec_augment
from tasks.models import qwen2_audio as family


class Augmented:
    """Clip i of the current epoch. What is drawn depends on seed, epoch and clip alone, so that a run that was killed and
    goes on hears what an unbroken one hears."""

    def __init__(
        self, processor: Any, flacs: Sequence[bytes], plain: Sequence[family.Clip], block: AugmentBlock, seed: int
    ) -> None:
        self.processor = processor
        self.flacs = flacs
        self.plain = plain
        self.block = block
        self.seed = seed

    def heard(self, row: int, epoch: int) -> family.Clip:
        """Features of one clip, of as many frames as without augmentation."""
        key = [self.seed, epoch, row]
        draw = np.random.default_rng(key)
        with_noise, with_masks = draw.random(2)
        clip, noise, masks = self.plain[row], self.block.noise, self.block.spec_augment
        if noise and with_noise < noise.p:
            snr_db = float(draw.uniform(*noise.snr_db))
            noisy = add_noise(decode_flac(self.flacs[row]), snr_db, colour=noise.colour, seed=[*key, 1])
            (clip,) = family.extract(self.processor, [noisy])
        if masks and with_masks < masks.p:
            masked = spec_augment(
                clip.features.numpy(), min(clip.frames, clip.features.shape[1]), time_share=masks.time_share,
                mel_bins=masks.mel_bins, time_masks=masks.time_masks, mel_masks=masks.mel_masks, seed=[*key, 2],
            )  # fmt: skip
            clip = clip._replace(features=torch.from_numpy(masked))
        return clip
