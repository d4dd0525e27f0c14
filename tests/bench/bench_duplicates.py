"""How many planted copies the search finds, how many clean clips it flags, and what ten thousand by ten thousand cost.

EARSHOT_CORPUS=... python -m tests.bench.bench_duplicates --what recall clean chance scale

recall   copies by plant_copies.py, found by the search and, beside it, by plain normalised correlation at the height that
         no pair of others among 300 reaches
clean    clips of different recordings: other supergroups, other files of one speaker, other takes of one word
chance   the highest scores between other voices, real and synthetic: what SPREAD rests on
scale    seconds and peak memory of N x N clips, and how many times as long a comparison of all pairs would take
"""

import argparse
import os
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from tasks.functional.duplicates import SPREAD, find_duplicates, least_score, search
from tests.bench.plant_copies import RATE, Original, copy_of, read_originals

Wave = NDArray[np.float32]
CELLS: tuple[tuple[float, float | None, str, str], ...] = (
    (1.0, 10, "full", "white"), (1.0, 0, "full", "white"), (0.5, 20, "full", "white"), (0.5, 10, "full", "white"),
    (0.5, 0, "full", "white"), (0.5, 10, "full", "real"), (0.5, 0, "full", "real"), (0.5, 10, "phone", "white"),
    (0.5, 10, "lowpass", "white"), (0.2, 10, "full", "white"), (0.2, 0, "full", "white"), (0.2, 10, "phone", "white"),
    (0.1, 20, "full", "white"), (0.1, 10, "full", "white"), (0.04, None, "full", "white"),
)  # fmt: skip

DRAWS = (6, 106)  # seeds


def corpus() -> Path:
    """The recordings. Exits, saying so, where there are none."""
    if not (place := os.environ.get("EARSHOT_CORPUS")):
        raise SystemExit("EARSHOT_CORPUS is not set: this part needs real recordings")
    return Path(place)


# --- recall ------------------------------------------------------------------------------------------------------


def bench_recall(n: int) -> None:
    """A line a cell: found with the right lag, found by plain correlation, wrong pairs."""
    noises = [one.samples for one in read_originals(corpus(), seconds=3.0, per_file=1, seed=9, roles=("noise",))]
    print(
        f"copies of {n} originals found, and what plain normalised correlation finds of a quarter, at no false alarm in 300"
    )
    print(
        f"{'copy':>8} {'SNR':>6} {'band':>8} {'noise':>6} {'found':>7} {'plain':>7} {'ratio':>6} {'wrong':>6} {'s':>6}"
    )
    for seconds, snr_db, band, kind in CELLS:
        originals = read_originals(
            corpus(),
            seconds=1.5 * seconds if seconds > 0.4 else 0.75,
            per_file=2,
            seed=1,
            roles=("speech", "nonspeech"),
        )[:n]
        rng = np.random.default_rng(2)
        copies = [
            copy_of(one.samples, rng, seconds=seconds, snr_db=snr_db, band=band,
                    noise=noises[k % len(noises)] if kind == "real" else None)
            for k, one in enumerate(originals)
        ]  # fmt: skip
        begin = time.monotonic()
        table = find_duplicates(
            [one.samples for one in originals], [copy.samples for copy in copies], sample_rate=RATE
        )
        took = time.monotonic() - begin
        lags = np.array([copies[b].lag_s for b in table["b"]])
        right = int(np.sum((table["a"] == table["b"]) & (np.abs(table["lag_s"] - lags) < 0.002)))
        recall = right / len(originals)
        some = range(0, len(copies), 4)
        true = [peak_of_plain(originals[k].samples, copies[k].samples) for k in some]
        false = [peak_of_plain(originals[k - shift].samples, copies[k].samples) for k in some for shift in (1, 7, 19)]
        plain = float(np.mean(np.array(true) > max(false)))
        print(
            f"{1000 * seconds:>5.0f} ms {'-' if snr_db is None else snr_db:>6} {band:>8} {kind:>6} {recall:>7.3f} "
            f"{plain:>7.3f} {recall / max(plain, 1e-3):>6.1f} {len(table) - right:>6} {took:>6.1f}", flush=True,
        )  # fmt: skip


def peak_of_plain(a: Wave, b: Wave) -> float:
    """Largest normalised cross-correlation over all lags."""
    sums = scipy.signal.fftconvolve(a, b[::-1])
    energy = scipy.signal.fftconvolve(a.astype(float) ** 2, np.ones(len(b)))
    return float(
        np.max(np.abs(sums) / np.sqrt(np.maximum(energy, 1e-3 * energy.max()) * np.sum(b.astype(float) ** 2)))
    )


# --- clean recordings --------------------------------------------------------------------------------------------


def bench_clean() -> None:
    """A line a set and duration: clips, pairs, flagged pairs and the share of clips in one, with the flagged named."""
    print(f"{'clean set':>34} {'clip':>8} {'clips':>6} {'pairs':>10} {'flagged':>8} {'share':>8}")
    for seconds, per_file in ((1.0, 3), (0.5, 4), (0.2, 4), (0.1, 4)):
        clips = read_originals(
            corpus(), seconds=seconds, per_file=per_file, seed=3, roles=("speech", "nonspeech", "noise")
        )
        speech = [one for one in clips if "speech/" in one.file[:7]]
        digits = [one for one in clips if "fsdd" in one.file.lower() and seconds <= 0.2]
        report("other supergroups", seconds, clips, [one.supergroup for one in clips])
        report("other files of one speaker", seconds, speech, [one.file for one in speech], alike="group")
        if digits:
            report("other takes, one speaker's digits", seconds, digits, [one.file for one in digits], alike="group")


def report(
    name: str, seconds: float, clips: Sequence[Original], apart: Sequence[str], alike: str | None = None
) -> None:
    """Search between two halves, dealt by `apart`; with `alike` only pairs of one group count."""
    kinds = sorted(set(apart))
    side = dict(zip(kinds, np.random.default_rng(4).permutation(len(kinds)) % 2, strict=True))
    a = [one for one, its in zip(clips, apart, strict=True) if side[its] == 0]
    b = [one for one, its in zip(clips, apart, strict=True) if side[its] == 1]
    table = find_duplicates([one.samples for one in a], [one.samples for one in b], sample_rate=RATE)
    flagged = [(a[i], b[j], score) for i, j, score in zip(table.a, table.b, table.score, strict=True)]
    if alike:
        flagged = [(one, other, score) for one, other, score in flagged if one.group == other.group]
    pairs = sum(one.group == other.group for one in a for other in b) if alike else len(a) * len(b)
    hit = {id(clip) for one, other, _ in flagged for clip in (one, other)}
    share = len(hit) / len(clips)
    print(f"{name:>34} {1000 * seconds:>5.0f} ms {len(clips):>6} {pairs:>10,} {len(flagged):>8} {share:>8.4%}")
    for one, other, score in flagged[:6]:
        print(f"{'':>36}{score:.1f}  {one.file}  {other.file}", flush=True)


# --- chance ------------------------------------------------------------------------------------------------------


def bench_chance() -> None:
    """The highest score between other voices, how high normal deviates of as many lags come, and the ratio of the two; of
    two draws of stretches, since the highest of one says little of the next."""
    print(f"{'voices':>10} {'draw':>5} {'clip':>8} {'pairs':>10} {'highest':>8} {'normal':>7} {'ratio':>6} {'judged at':>10}"
          f"   (reckoned with: {SPREAD:g})")  # fmt: skip
    for seconds in (0.1, 0.2, 0.5, 1.0):
        for draw, kind in product(DRAWS, (real_voices, synthetic_voices)):
            clips, apart = kind(seconds, draw)
            kinds = sorted(set(apart))
            side = dict(zip(kinds, np.random.default_rng(draw).permutation(len(kinds)) % 2, strict=True))
            part = [int(side[its]) for its in apart]
            found = search(clips, part, sample_rate=RATE, lags=1.0)
            highest = found.table["score"].max() if len(found.table) else float("nan")
            normal = -NormalDist().inv_cdf(0.5 / found.lags)
            pairs, name = part.count(0) * part.count(1), kind.__name__.partition("_")[0]
            print(f"{name:>10} {draw:>5} {1000 * seconds:>5.0f} ms {pairs:>10,} {highest:>8.1f} {normal:>7.1f} "
                  f"{highest / normal:>6.2f} {least_score(found.lags):>10.1f}", flush=True)  # fmt: skip


def real_voices(seconds: float, draw: int) -> tuple[list[Wave], list[str]]:
    """Clips of speech and their speakers."""
    clips = read_originals(corpus(), seconds=seconds, per_file=4, seed=draw, roles=("speech",))
    return [one.samples for one in clips], [one.supergroup for one in clips]


def synthetic_voices(seconds: float, draw: int) -> tuple[list[Wave], list[str]]:
    """One clip of each utterance of espeak voices in weak noise, and the voices."""
    from recipes.sources import EspeakSource
    from tasks import sources

    block = EspeakSource(kind="espeak", voices=48, utterances=6, seed=draw)
    table = sources.recordings(block)
    rng = np.random.default_rng(draw)
    waves = [sources.waveform(block, row) for row in table.itertuples(index=False)]
    return [copy_of(wave, rng, seconds=seconds, snr_db=20).samples for wave in waves], table["group_id"].tolist()


# --- scale -------------------------------------------------------------------------------------------------------


def bench_scale(n: int, seconds: float) -> None:
    """One line: seconds, peak memory, copies found, and the ratio to all pairs one by one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        print(fresh.submit(measure_scale, n, seconds).result())


def measure_scale(n: int, seconds: float) -> str:
    """In a process of its own, so that the peak is that of inputs and search alone."""
    a, b = generated(n, seconds, 0), generated(n, seconds, 1)
    rng = np.random.default_rng(2)
    planted = rng.choice(n, n // 50, replace=False)
    for k in planted:
        b[k] = copy_of(a[k], rng, seconds=0.7 * seconds, snr_db=float(rng.choice([0, 10]))).samples
    before, begin = peak_gb(), time.monotonic()
    table = find_duplicates(a, b, sample_rate=RATE)
    took, after = time.monotonic() - begin, peak_gb()
    begin = time.monotonic()
    for k in range(200):
        peak_of_plain(a[k], b[k])
    all_pairs = (time.monotonic() - begin) / 200 * n * n
    found = sum(table.a == table.b)
    inputs = 2 * n * seconds * RATE * 4 / 1e9
    return (
        f"{n:,} x {n:,} clips of {seconds:g} s: {took:.0f} s; peak {after:.2f} GB, {before:.2f} of it before the search "
        f"(inputs {inputs:.2f} GB); {found} of {len(planted)} copies at 0 and 10 dB found, {len(table) - found} wrong; "
        f"all pairs by plain correlation would take {all_pairs / took:,.0f} times as long"
    )


def peak_gb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def generated(n: int, seconds: float, seed: int) -> list[Wave]:
    """Noise through three resonances under a changing envelope: as many sounds as one likes, none like another."""
    rng = np.random.default_rng(seed)
    waves = []
    for _ in range(n):
        poles = 0.97 * np.exp(2j * np.pi * rng.uniform(200, 5000, 3) / RATE)
        coefficients = np.real(np.poly([*poles, *poles.conj()]))
        wave = scipy.signal.lfilter([1.0], coefficients, rng.standard_normal(round(seconds * RATE)).astype(np.float32))
        wave *= np.interp(np.linspace(0, 11, len(wave)), np.arange(12), rng.random(12) ** 2)
        waves.append((0.5 * wave / np.abs(wave).max()).astype(np.float32))
    return waves


def main() -> None:
    """The parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=("recall", "clean", "chance", "scale"),
                        default=["recall", "clean", "chance", "scale"])  # fmt: skip
    parser.add_argument("--originals", type=int, default=400)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.5)
    asked = parser.parse_args()
    if "recall" in asked.what:
        bench_recall(asked.originals)
    if "clean" in asked.what:
        bench_clean()
    if "chance" in asked.what:
        bench_chance()
    if "scale" in asked.what:
        bench_scale(asked.n, asked.seconds)


if __name__ == "__main__":
    main()
