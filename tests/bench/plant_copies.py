"""Copies of real recordings under other names, by code that the search for copies does not share.

python -m tests.bench.plant_copies --corpus $EARSHOT_CORPUS --out /tmp/planted --n 120 --duration-ms 500 --snr-db 0

writes originals/*.wav, copies/*.wav in another order, and truth.csv: copy, original, lag_s (copy[t] is original[t + lag_s]).
"""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.signal
import soundfile
from numpy.typing import NDArray

RATE = 16_000
BANDS = {"full": None, "phone": (300.0, 3400.0), "lowpass": (50.0, 3400.0)}


class Original(NamedTuple):
    """A stretch of a recording, with the identities that the corpus gives it."""

    samples: NDArray[np.float32]
    file: str
    group: str
    supergroup: str
    category: str


class Copy(NamedTuple):
    """A disguised stretch of an original, and where in it the stretch begins."""

    samples: NDArray[np.float32]
    lag_s: float


def read_originals(
    corpus: Path, *, seconds: float, per_file: int, seed: int, roles: tuple[str, ...]
) -> list[Original]:
    """Stretches that do not overlap, `per_file` at most of each file, without pauses; in random order."""
    rng = np.random.default_rng(seed)
    found = []
    with (corpus / "metadata.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            if row["role"] in roles:
                wave = soundfile.read(corpus / row["file"], dtype="float32")[0]
                cuts = stretches(wave, round(seconds * RATE), rng)
                names = (row["file"], row["group_id"], row["supergroup_id"], row["category"])
                found += [Original(cut, *names) for cut in cuts[:per_file]]
    return [found[k] for k in rng.permutation(len(found))]


def stretches(wave: NDArray[np.float32], n: int, rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """The stretches of n samples, one behind the other, in which something is to be heard, in random order."""
    if len(wave) < n:
        return []
    first = int(rng.integers(0, min(n, len(wave) - n + 1)))
    cuts = [wave[at : at + n] for at in range(first, len(wave) - n + 1, n)]
    loudest = max(np.std(cut) for cut in cuts)
    kept = [cut for cut in cuts if np.std(cut) > 0.25 * loudest and np.mean(cut == 0) < 0.2]
    return [kept[k] for k in rng.permutation(len(kept))]


def copy_of(
    original: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    seconds: float,
    snr_db: float | None,
    band: str = "full",
    noise: NDArray[np.float32] | None = None,
) -> Copy:
    """A stretch of it in noise (white where none is given) at the SNR of the stretch, band, gain up to 20 dB down, sign."""
    n = round(seconds * RATE)
    tries = [int(rng.integers(0, len(original) - n + 1)) for _ in range(6)]
    at = next((t for t in tries if np.std(original[t : t + n]) > 0.4 * np.std(original)), tries[0])
    copy = original[at : at + n].astype(float)
    if snr_db is not None:
        added = rng.normal(size=n)
        if noise is not None:
            start = int(rng.integers(0, len(noise) - n + 1))
            added = noise[start : start + n] + 1e-9 * added
        copy = copy + added * np.sqrt(np.mean(copy**2) / np.mean(added**2) / 10 ** (snr_db / 10))
    if corners := BANDS[band]:
        copy = scipy.signal.lfilter(*scipy.signal.butter(3, np.array(corners) / (RATE / 2), "band"), copy)
    gain = rng.choice([-1.0, 1.0]) * 10 ** (-rng.uniform(0, 20) / 20)
    return Copy((gain * copy / max(1.0, np.abs(copy).max())).astype(np.float32), at / RATE)


def main() -> None:
    """Write originals, copies and the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--duration-ms", type=float, default=500)
    parser.add_argument("--original-ms", type=float, default=750)
    parser.add_argument("--snr-db", type=float, default=10)
    parser.add_argument("--band", choices=sorted(BANDS), default="full")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    originals = read_originals(
        asked.corpus, seconds=asked.original_ms / 1000, per_file=1, seed=asked.seed, roles=("speech", "nonspeech")
    )[: asked.n]
    copies = [
        copy_of(one.samples, rng, seconds=asked.duration_ms / 1000, snr_db=asked.snr_db, band=asked.band)
        for one in originals
    ]
    for name in ("originals", "copies"):
        (asked.out / name).mkdir(parents=True, exist_ok=True)
    rows = [("copy", "original", "lag_s")]
    for place, k in enumerate(rng.permutation(len(copies))):
        soundfile.write(asked.out / "originals" / f"{k:04}.wav", originals[k].samples, RATE, subtype="FLOAT")
        soundfile.write(asked.out / "copies" / f"c{place:04}.wav", copies[k].samples, RATE, subtype="FLOAT")
        rows.append((f"c{place:04}.wav", f"{k:04}.wav", f"{copies[k].lag_s:.4f}"))
    with (asked.out / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    print(f"{len(copies)} copies in {asked.out}")


if __name__ == "__main__":
    main()
