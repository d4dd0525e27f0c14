"""How many mel frames and audio tokens a waveform gives every model here; arithmetic without torch."""

HOP = 160  # samples per mel frame at 16 kHz
SAMPLE_RATE_HZ = 16_000
MAX_FRAMES = 3000  # 30 s, what every stack pads Qwen2-Audio's clips to


def mel_frames(samples: int) -> int:
    """Valid mel frames of a waveform."""
    return -(-samples // HOP)


def audio_tokens(samples: int) -> int:
    """Vectors the language model gets for a waveform: 0 up to 20 ms, 1 for 25-60 ms, 25 for 1 s."""
    return max(0, (((mel_frames(samples) - 1) // 2 + 1) - 2) // 2 + 1)


def trimmed_frames(samples: int, most: int = MAX_FRAMES) -> int:
    """Mel frames to keep so that every valid encoder frame is exact.

    Of L valid frames the stride-2 convolution makes N = (L-1)//2 + 1; its last output and the pooling need 2 (N+1).
    """
    return min(most, 2 * ((mel_frames(samples) - 1) // 2 + 2))
