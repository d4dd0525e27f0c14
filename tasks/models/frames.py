"""How many mel frames a waveform gives every model here, and how many audio tokens each encoder makes of them; arithmetic
without torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

HOP = 160  # samples per mel frame at 16 kHz
SAMPLE_RATE_HZ = 16_000
MAX_FRAMES = 3000  # 30 s, what every stack pads Qwen2-Audio's clips to


def mel_frames(samples: int) -> int:
    """Valid mel frames of a waveform."""
    return -(-samples // HOP)


class Rate(NamedTuple):
    """What an encoder makes of mel frames. `tokens_of` takes a number of frames or a tensor of them."""

    tokens_of: Callable[[Any], Any]  # valid frames -> audio tokens, which of a whole batch's frames are a row's places
    needed: Callable[[int], int]  # valid frames -> frames to keep, so that every token is exact
    shortest_ms: float  # of a clip that gives a token

    def audio_tokens(self, samples: int) -> int:
        """Vectors the language model gets for a waveform."""
        return int(self.tokens_of(mel_frames(samples)))

    def trimmed_frames(self, samples: int, most: int = MAX_FRAMES) -> int:
        """Mel frames to keep of a waveform so that every token is exact."""
        return min(most, self.needed(mel_frames(samples)))


def _pooled_tokens(frames: Any) -> Any:
    return (((frames - 1) // 2 + 1) - 2) // 2 + 1


def _pooled_needed(frames: int) -> int:
    """Of L valid frames the stride-2 convolution makes N = (L-1)//2 + 1; its last output and the pooling need 2 (N+1)."""
    return 2 * ((frames - 1) // 2 + 2)


CHUNK, CHUNK_TOKENS, STRIDE = 100, 13, 8


def _chunked_tokens(frames: Any) -> Any:
    return frames // CHUNK * CHUNK_TOKENS + (frames % CHUNK + STRIDE - 1) // STRIDE


def _chunked_needed(frames: int) -> int:
    """The last token of a chunk looks no further than the eight frames that are its own, unless the chunk ends before."""
    return frames // CHUNK * CHUNK + min(CHUNK, -(-(frames % CHUNK) // STRIDE) * STRIDE)


# A convolution of stride 2 and a mean over two: no token up to 20 ms, 1 for 25-60 ms, 25 for 1 s.
POOLED = Rate(_pooled_tokens, _pooled_needed, shortest_ms=25)
# Three convolutions of stride 2 over chunks of 1 s, each by itself: 1 token up to 80 ms, 13 for 1 s.
CHUNKED = Rate(_chunked_tokens, _chunked_needed, shortest_ms=10)
