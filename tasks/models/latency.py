"""How long one clip takes, in a batch of its own and warm, stage by stage."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tasks.audio_files import decode_flac
from tasks.functional.timing import TIMED, WARM, latency_of
from tasks.models import family
from tasks.models.listening import sample
from tasks.models.scoring import Question, Starts, answers_of, forward

T = TypeVar("T")
STAGES = ("loading", "features", "encoder", "language_model", "post_processing")


class Stopwatch:
    """Milliseconds of what is called: on a GPU between two CUDA events, and with the wait for them; else by the clock."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def host(self, work: Callable[[], T]) -> tuple[T, float]:
        """What work on the host gives, and how long it takes."""
        begin = time.perf_counter()
        found = work()
        return found, 1000 * (time.perf_counter() - begin)

    def device(self, work: Callable[[], T]) -> tuple[T, float]:
        """What work of the device gives, and how long it takes."""
        if not self.on_gpu:
            return self.host(work)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        found = work()
        end.record()
        end.synchronize()
        return found, begin.elapsed_time(end)


def measure(model: nn.Module, processor: Any, question: Question, clips: Sequence[bytes]) -> dict[str, Any]:
    """Median and 95th percentile in ms of every stage and of all together, over up to 32 clips of all lengths.

    Batch of one, warm, by one forward pass, nothing taken from the cache of encodings: what a clip costs that is heard
    for the first time. What stands before the audio in the prompt is known from the warm-up and is not on the clock.
    `features` are the extractor's as the encoder takes them; their way to the device is the encoder's. `clips`: FLAC.
    """
    chosen = sample(clips, TIMED)
    starts: Starts = {}
    for clip in (chosen * WARM)[:WARM]:
        stages_ms(model, processor, question, clip, starts)
    rows = np.array([stages_ms(model, processor, question, clip, starts) for clip in chosen])
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"
    return latency_of(dict(zip(STAGES, rows.T, strict=True)), device)


@torch.inference_mode()
def stages_ms(model: nn.Module, processor: Any, question: Question, clip: bytes, starts: Starts) -> list[float]:
    """How long each of the stages takes for one clip."""
    watch = Stopwatch(model.device)
    waveform, loading = watch.host(lambda: decode_flac(clip))
    inputs, features = watch.host(lambda: family.audio_inputs(family.extract(processor, [waveform])))
    vectors, encoder = watch.device(
        lambda: family.encode(model, inputs["input_features"], inputs["feature_attention_mask"])
    )
    logits, language_model = watch.device(lambda: forward(model, [family.Encoded(vectors)], [question], starts)[0])
    _, post_processing = watch.host(lambda: answers_of(logits.cpu().numpy(), question))
    return [loading, features, encoder, language_model, post_processing]
