"""Generated sounds that are no speech: what stands for NONSPEECH in a demo, and backgrounds to mix in.

A generator draws its parameters anew for each recording; it gives samples at 16 kHz of any scale.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recipes.sources import SyntheticSource
from tasks.functional.audio import SAMPLE_RATE_HZ, n_samples

Sound = NDArray[np.float64]
Generator = Callable[[int, np.random.Generator], Sound]
PEAK = 0.7


def recordings(block: SyntheticSource) -> pd.DataFrame:
    """One row per draw; a draw is a group and its generator the supergroup. Raises ValueError on families of noise."""
    everything = SyntheticSource.model_fields["families"].default
    if block.role == "noise" and block.families != everything:
        raise ValueError("families choose among content; a synthetic source of role noise has none to choose from")
    families = (
        {"background": BACKGROUNDS} if block.role == "noise" else {name: CONTENT[name] for name in block.families}
    )
    rows = [
        (f"synthetic:{name}:{draw:02d}", f"synthetic:{name}", name, family)
        for family, generators in families.items()
        for name in generators
        for draw in range(block.draws)
    ]
    table = pd.DataFrame(rows, columns=["recording_id", "supergroup_id", "category", "family"])
    return table.assign(
        role=block.role, label=block.label if block.role == "content" else None, group_id=table["recording_id"],
        licence="generated", path="", start_s=np.nan, end_s=np.nan,
    )  # fmt: skip


def waveform(block: SyntheticSource, row: Any) -> NDArray[np.float32]:
    """The draw, at a peak of 0.7: the same for one seed, id and duration."""
    generate = (BACKGROUNDS if row.role == "noise" else CONTENT[row.family])[row.category]
    rng = np.random.default_rng(zlib.crc32(f"{block.seed}:{row.recording_id}".encode()))
    sound = generate(round(block.duration_s * SAMPLE_RATE_HZ), rng)
    return (sound * (PEAK / np.abs(sound).max())).astype(np.float32)


# --- what generators are made of ---------------------------------------------------------------------------------


def seconds(n: int) -> Sound:
    """Time of each of n samples."""
    return np.arange(n) / SAMPLE_RATE_HZ


def coloured(n: int, slope: float, rng: np.random.Generator) -> Sound:
    """Noise whose power falls with f ** -slope above 40 Hz (0 white, 1 pink, 2 brown, -1 blue), with an RMS of 1."""
    frequency = np.fft.rfftfreq(n, 1 / SAMPLE_RATE_HZ)
    spectrum = rng.standard_normal((2, len(frequency))) * np.maximum(frequency, 40) ** (-slope / 2)
    spectrum[:, 0] = 0
    sound = np.fft.irfft(spectrum[0] + 1j * spectrum[1], n)
    return sound / sound.std()


def band(sound: Sound, low_hz: float, high_hz: float) -> Sound:
    """The sound between two corners, 12 dB per octave beyond them."""
    from scipy.signal import butter, sosfilt

    return sosfilt(butter(2, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE_HZ, output="sos"), sound)


def resonance(sound: Sound, hz: float, width_hz: float) -> Sound:
    """The sound through one pole pair."""
    from scipy.signal import lfilter

    radius = np.exp(-np.pi * width_hz / SAMPLE_RATE_HZ)
    return lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * hz / SAMPLE_RATE_HZ), radius**2], sound)


def wander(n: int, hz: float, low: float, high: float, rng: np.random.Generator) -> Sound:
    """A curve between low and high that turns about `hz` times a second."""
    knots = max(3, round(n / SAMPLE_RATE_HZ * hz) + 2)
    step = np.linspace(0, knots - 1, n)
    left = np.minimum(step.astype(int), knots - 2)
    ease = 0.5 - 0.5 * np.cos(np.pi * (step - left))
    heights = rng.random(knots)
    return low + (high - low) * (heights[left] * (1 - ease) + heights[left + 1] * ease)


def harmonics(pitch_hz: Sound, count: int, slope: float, rng: np.random.Generator) -> Sound:
    """Partials of a pitch contour with amplitudes k ** -slope and random phases, none above 7.6 kHz."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    count = max(1, min(count, int(7_600 / pitch_hz.max())))
    return sum((np.sin(k * phase + 2 * np.pi * rng.random()) / k**slope for k in range(1, count + 1)), np.zeros(1))


def decay(n: int, time_s: float) -> Sound:
    """An onset of half a millisecond, then an exponential fall."""
    return np.minimum(1, seconds(n) / 0.0005) * np.exp(-seconds(n) / time_s)


def scatter(n: int, event: Callable[[], Sound], per_second: float, rng: np.random.Generator) -> Sound:
    """Events at random times, at least 2 ms apart, each as loud as chance makes it."""
    sound = np.zeros(n)
    at = round(rng.exponential(0.3 / per_second) * SAMPLE_RATE_HZ)
    while at < n:
        one = event()[: n - at]
        sound[at : at + len(one)] += rng.uniform(0.4, 1) * one
        at += max(n_samples(2), round(rng.exponential(1 / per_second) * SAMPLE_RATE_HZ))
    return sound


def length(low_s: float, high_s: float, rng: np.random.Generator) -> int:
    """A random number of samples."""
    return round(rng.uniform(low_s, high_s) * SAMPLE_RATE_HZ)


# --- noise -------------------------------------------------------------------------------------------------------


def fluttering_noise(n: int, rng: np.random.Generator) -> Sound:
    return coloured(n, rng.uniform(0, 1.5), rng) * wander(n, rng.uniform(3, 9), 0.02, 1, rng)


def sweeping_noise(n: int, rng: np.random.Generator) -> Sound:
    noise, where = coloured(n, 0, rng), wander(n, rng.uniform(0.5, 2), 0, 1, rng)
    low, high = (resonance(noise, hz, 0.2 * hz) for hz in (rng.uniform(300, 900), rng.uniform(2_000, 6_000)))
    return low / low.std() * (1 - where) + high / high.std() * where


def steam(n: int, rng: np.random.Generator) -> Sound:
    def puff() -> Sound:
        m = length(0.1, 0.5, rng)
        return coloured(m, -1, rng) * np.hanning(m)

    return scatter(n, puff, rng.uniform(2, 4), rng) + 0.02 * coloured(n, 0, rng)


def crackle(n: int, rng: np.random.Generator) -> Sound:
    def pop() -> Sound:
        return resonance(rng.standard_normal(200) * decay(200, 0.001), rng.uniform(800, 6_000), 800)

    return scatter(n, pop, rng.uniform(20, 60), rng) + 0.003 * coloured(n, 1, rng)


# --- environment -------------------------------------------------------------------------------------------------


def wind(n: int, rng: np.random.Generator) -> Sound:
    return band(coloured(n, 1, rng), 40, rng.uniform(200, 900)) * wander(n, 1.5, 0.2, 1, rng)


def rain(n: int, rng: np.random.Generator) -> Sound:
    def drop() -> Sound:
        return resonance(rng.standard_normal(400) * decay(400, 0.003), rng.uniform(1_500, 6_000), 600)

    return scatter(n, drop, rng.uniform(80, 250), rng) + 0.02 * coloured(n, 0, rng)


def engine(n: int, rng: np.random.Generator) -> Sound:
    pitch = rng.uniform(35, 110) * wander(n, 2, 0.97, 1.03, rng)
    sound = harmonics(pitch, 60, 0.6, rng) * (1 + 0.5 * np.sin(np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ))
    for _ in range(3):
        sound = sound + 2 * resonance(sound, rng.uniform(150, 2_500), 150)
    return sound + 0.3 * coloured(n, 1, rng)


def siren(n: int, rng: np.random.Generator) -> Sound:
    turn = np.sin(2 * np.pi * (rng.uniform(0.3, 4) * seconds(n) + rng.random()))
    return harmonics(rng.uniform(500, 1_100) * 2 ** (0.6 * turn), 6, 1.5, rng)


def beeps(n: int, rng: np.random.Generator) -> Sound:
    on = length(0.05, 0.2, rng)
    beep = harmonics(np.full(on, rng.uniform(400, 3_000)), 4, 2, rng) * np.hanning(on) ** 0.2
    period = np.pad(beep, (0, round(on * rng.uniform(0.3, 1.5))))
    return np.roll(np.resize(period, n), rng.integers(len(period)))


def knocking(n: int, rng: np.random.Generator) -> Sound:
    modes = [(rng.uniform(80, 3_000), rng.uniform(20, 150)) for _ in range(5)]

    def knock() -> Sound:
        blow = rng.standard_normal(4_000) * decay(4_000, 0.004)
        return np.sum([resonance(blow, hz, width_hz) for hz, width_hz in modes], axis=0)

    return scatter(n, knock, rng.uniform(3, 9), rng)


def clinking(n: int, rng: np.random.Generator) -> Sound:
    def clink() -> Sound:
        t, hz = seconds(6_000), rng.uniform(800, 3_000)
        partials = [np.sin(2 * np.pi * hz * k * t) * np.exp(-t * rng.uniform(8, 60)) for k in (1, 2.32, 2.76, 4.25)]
        return np.sum([p for p, k in zip(partials, (1, 2.32, 2.76, 4.25), strict=True) if hz * k < 7_600], axis=0)

    return scatter(n, clink, rng.uniform(2, 8), rng)


# --- music -------------------------------------------------------------------------------------------------------

SCALE = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])  # semitones of a major scale


def plucked_string(n: int, rng: np.random.Generator) -> Sound:
    """Karplus and Strong (1983): a burst of noise in a loop of one period with a low-pass."""
    from scipy.signal import lfilter

    notes = rng.uniform(80, 330) * 2 ** (SCALE / 12)

    def pluck() -> Sound:
        period = round(SAMPLE_RATE_HZ / rng.choice(notes))
        loop = np.zeros(period + 2)
        loop[0], loop[period:] = 1, -0.498
        return lfilter([1], loop, np.pad(rng.uniform(-1, 1, period), (0, SAMPLE_RATE_HZ // 2)))

    return scatter(n, pluck, rng.uniform(3, 8), rng)


def organ(n: int, rng: np.random.Generator) -> Sound:
    root, slope = rng.uniform(100, 350), rng.uniform(0.7, 1.6)
    vibrato = 1 + 0.006 * np.sin(2 * np.pi * (5.5 * seconds(n) + rng.random()))
    chord = rng.choice([[0, 4, 7], [0, 3, 7], [0, 5, 9], [0, 7, 12]])
    voices = [harmonics(root * 2 ** (step / 12) * vibrato, 12, slope, rng) for step in chord]
    return np.sum(voices, axis=0) * wander(n, 3, 0.3, 1, rng)


def melody(n: int, rng: np.random.Generator) -> Sound:
    note = length(0.14, 0.33, rng)
    steps = np.repeat(rng.choice(SCALE, n // note + 1), note)[:n]
    pitch = rng.uniform(120, 400) * 2 ** (steps / 12) * (1 + 0.01 * np.sin(2 * np.pi * 6 * seconds(n)))
    sound = harmonics(pitch, 25, 0.9, rng)
    return resonance(sound, rng.uniform(400, 1_000), 120) + 0.7 * resonance(sound, rng.uniform(1_100, 2_600), 200)


def drums(n: int, rng: np.random.Generator) -> Sound:
    t = seconds(3_000)
    kick_hz, snare_hz = rng.uniform(40, 70), rng.uniform(150, 240)

    def hit() -> Sound:
        noise = rng.standard_normal(3_000)
        kick = np.sin(2 * np.pi * (kick_hz * t + 20 * (1 - np.exp(-40 * t)))) * np.exp(-14 * t)
        snare = 0.7 * noise * decay(3_000, 0.04) + np.sin(2 * np.pi * snare_hz * t) * decay(3_000, 0.05)
        hat = 0.5 * np.diff(noise, append=0) * decay(3_000, 0.02)
        return (kick, snare, hat)[rng.integers(3)]

    return scatter(n, hit, rng.uniform(5, 9), rng)


# --- animals -----------------------------------------------------------------------------------------------------


def bird(n: int, rng: np.random.Generator) -> Sound:
    centre = rng.uniform(2_000, 5_000)

    def chirp() -> Sound:
        m = length(0.04, 0.25, rng)
        t = np.linspace(0, 1, m)
        bend = rng.uniform(-0.6, 0.4) * t + 0.15 * np.sin(2 * np.pi * rng.uniform(0, 20) * t)
        return harmonics(centre * 2**bend, 1, 1, rng) * np.hanning(m)

    return scatter(n, chirp, rng.uniform(4, 9), rng)


def dog(n: int, rng: np.random.Generator) -> Sound:
    pitch, throat = rng.uniform(250, 700), rng.uniform((500, 1_100, 2_400), (1_000, 2_200, 3_500))

    def bark() -> Sound:
        m = length(0.08, 0.25, rng)
        arch = np.sin(np.pi * np.linspace(0, 1, m))
        source = harmonics(pitch * (0.7 + 0.6 * arch), 30, 0.7, rng) + 0.8 * rng.standard_normal(m)
        return (
            np.sum([g * resonance(source, f, 180) for f, g in zip(throat, (1, 0.8, 0.4), strict=True)], axis=0) * arch
        )

    return scatter(n, bark, rng.uniform(2.5, 5), rng)


def cat(n: int, rng: np.random.Generator) -> Sound:
    pitch = rng.uniform(350, 800)

    def meow() -> Sound:
        m = length(0.3, 0.8, rng)
        t = np.linspace(0, 1, m)
        source = harmonics(pitch * (0.8 + 0.5 * np.sin(np.pi * t)), 25, 0.8, rng) + 0.05 * rng.standard_normal(m)
        return (resonance(source, 900, 200) * t + resonance(source, 2_200, 300) * (1 - t)) * np.sin(np.pi * t)

    return scatter(n, meow, rng.uniform(1.5, 3), rng)


def insect(n: int, rng: np.random.Generator) -> Sound:
    t = seconds(n)
    gate = np.sin(2 * np.pi * rng.uniform(15, 80) * t) > rng.uniform(-0.5, 0.5)
    return np.sin(2 * np.pi * rng.uniform(3_000, 7_000) * t) * gate * wander(n, 3, 0.3, 1, rng)


def frog(n: int, rng: np.random.Generator) -> Sound:
    rate, low, high = rng.uniform(25, 60), rng.uniform(500, 900), rng.uniform(1_200, 2_000)

    def croak() -> Sound:
        m = length(0.1, 0.4, rng)
        pulses = (np.sin(2 * np.pi * rate * seconds(m)) > 0.7).astype(float)
        return (resonance(pulses, low, 80) + resonance(pulses, high, 120)) * np.hanning(m) ** 0.3

    return scatter(n, croak, rng.uniform(2, 4), rng)


# --- backgrounds, stationary or nearly so ------------------------------------------------------------------------


def coloured_background(slope: float) -> Generator:
    def background(n: int, rng: np.random.Generator) -> Sound:
        return coloured(n, slope + rng.uniform(-0.15, 0.15), rng)

    return background


def hiss(n: int, rng: np.random.Generator) -> Sound:
    low = rng.uniform(1_500, 4_000)
    return band(coloured(n, 0, rng), low, min(7_500, low * rng.uniform(1.5, 3)))


def telephone_line(n: int, rng: np.random.Generator) -> Sound:
    return band(coloured(n, 0.5, rng), rng.uniform(250, 400), rng.uniform(3_000, 3_600)) + 0.02 * coloured(n, 0, rng)


def mains_hum(n: int, rng: np.random.Generator) -> Sound:
    mains = np.full(n, rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002))
    return harmonics(mains, 40, rng.uniform(0.6, 1.2), rng) + rng.uniform(0.1, 0.3) * coloured(n, 1, rng)


def fan(n: int, rng: np.random.Generator) -> Sound:
    blades = harmonics(rng.uniform(80, 200) * wander(n, 0.5, 0.995, 1.005, rng), 12, 1, rng)
    return band(coloured(n, 1, rng), 60, rng.uniform(1_500, 4_000)) + rng.uniform(0.1, 0.4) * blades


def room_tone(n: int, rng: np.random.Generator) -> Sound:
    modes = [resonance(coloured(n, 1, rng), hz, 15) for hz in rng.uniform(60, 400, 4)]
    return np.sum([mode / mode.std() for mode in modes], axis=0) * 0.3 + coloured(n, rng.uniform(1, 1.6), rng)


def traffic(n: int, rng: np.random.Generator) -> Sound:
    near = band(coloured(n, 1, rng), 300, rng.uniform(1_500, 3_000)) * wander(n, 0.5, 0.5, 1, rng)
    return band(coloured(n, 2, rng), 40, 500) + near


CONTENT: Mapping[str, Mapping[str, Generator]] = {
    "noise": {"fluttering": fluttering_noise, "sweeping": sweeping_noise, "steam": steam, "crackle": crackle},
    "environment": {
        "wind": wind, "rain": rain, "engine": engine, "siren": siren, "beeps": beeps, "knocking": knocking,
        "clinking": clinking,
    },
    "music": {"plucked": plucked_string, "organ": organ, "melody": melody, "drums": drums},
    "animals": {"bird": bird, "dog": dog, "cat": cat, "insect": insect, "frog": frog},
}  # fmt: skip
BACKGROUNDS: Mapping[str, Generator] = {
    "white": coloured_background(0), "pink": coloured_background(1), "brown": coloured_background(2),
    "blue": coloured_background(-1), "hiss": hiss, "line": telephone_line, "hum": mains_hum, "fan": fan,
    "room_tone": room_tone, "traffic": traffic,
}  # fmt: skip
