"""Psychometric refits against a scipy.optimize loop, the report's section, and what threshold intervals cover.

python -m tests.bench.bench_psychometric                  # speed; under a minute on one core
python -m tests.bench.bench_psychometric --coverage 200   # simulated data sets for each number of groups; minutes

CPU seconds of this process; set OMP_NUM_THREADS=1 for those of one core.
"""

import argparse
import itertools
import math
import time

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, xlogy

from tasks.functional.metrics import FloatArray
from tasks.functional.psychometric import STARTS_OF_REFITS, fit_counts, model_of, ordered_interval, refit_thresholds
from tasks.functional.report_psychometric import psychometric_section
from tasks.functional.resampling import resample
from tasks.functional.sigmoid_fits import fit_many
from tasks.functional.threshold_intervals import Sought, balanced_cells, fit_whole, level_counts, threshold_interval

CLASSES = ("SPEECH", "NONSPEECH")
MS = np.array([20.0, 40, 60, 80, 100, 200, 500, 1000])
DB = np.array([-10.0, -5, 0, 5, 10, 20])
MODEL = model_of(MS, "logistic", "log10", 0.5, None, 0.1)


def refits(n_refits: int, n_scipy: int) -> None:
    """1,000 bootstrap refits at once, and some of them one by one with scipy from the curve that made the data."""
    rng, trials = np.random.default_rng(0), 300
    correct = rng.binomial(trials, 0.5 + 0.48 * expit(-9 + 4.5 * np.log10(MS)), (n_refits, len(MS))).astype(float)
    start = time.process_time()
    ours = fit_many(MODEL, correct, np.full(correct.shape, float(trials)), n_starts=STARTS_OF_REFITS).log_likelihood
    together, start = time.process_time() - start, time.process_time()
    scipys = np.array([scipy_fit(counts, trials) for counts in correct[:n_scipy]])
    one_by_one = (time.process_time() - start) * n_refits / n_scipy
    print(
        f"{n_refits} refits at {len(MS)} levels: {together:.2f} s; scipy.optimize, from {n_scipy}: {one_by_one:.1f} s"
    )
    short = (scipys - ours[:n_scipy]).max()
    print(f"ratio {one_by_one / together:.0f}; log-likelihood short of scipy's by {short:.1e} at most")


def scipy_fit(correct: FloatArray, trials: int) -> float:
    """Log-likelihood by bounded quasi-Newton from a start that is nearly the answer."""

    def loss(theta: FloatArray) -> float:
        share = expit(theta[0] + theta[1] * np.log10(MS))
        psi, complement = 0.5 + (0.5 - theta[2]) * share, theta[2] + (0.5 - theta[2]) * (1 - share)
        return -float((xlogy(correct, psi) + xlogy(trials - correct, complement)).sum())

    bounds = [(None, None), (None, None), (0, 0.1)]
    return -float(minimize(loss, [-9, 4.5, 0.02], method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13}).fun)


def section(n_clips: int, durations: FloatArray, skill: float) -> None:
    """The whole section of one detector with 60 groups a class; skill 0 is at chance."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"duration_ms": rng.choice(durations, n_clips), "snr_db": rng.choice(DB, n_clips)})
    rows["label"] = rng.choice(CLASSES, n_clips)
    rows["group_id"] = rows["label"] + rng.integers(0, 60, n_clips).astype(str)
    heard = 0.48 * expit(skill * (np.log10(rows["duration_ms"] / 80) + rows["snr_db"] / 10)) * (skill > 0)
    right = rng.random(n_clips) < 0.5 + heard
    rows["prediction"] = np.where(right == (rows["label"] == CLASSES[0]), *CLASSES)
    start = time.process_time()
    psychometric_section(rows, classes=CLASSES, n_boot=1000, seed=0)
    spent = time.process_time() - start
    print(f"section, {n_clips} clips, {len(durations)} durations x {len(DB)} SNRs, skill {skill:g}: {spent:.1f} s")


def coverage(n_sets: int) -> None:
    """How often 95 % intervals of DT75 hold the threshold of the mean curve over all groups there are."""
    print(
        f"coverage of DT75 over {n_sets} simulated data sets, Monte Carlo error {math.sqrt(0.05 * 0.95 / n_sets):.3f}"
    )
    print(f"{'sd':<6}{'DT75':<8}{'groups':<8}{'by rule':>9}{'method':>11}{'percentiles':>13}{'no interval':>13}")
    for (sd, middle), groups in itertools.product(((1.0, 90.0), (1.5, 90.0), (1.5, 500.0)), (3, 5, 10, 19, 20, 50)):
        truth = true_threshold(sd, middle)
        found = [covered(simulated(groups, sd, middle, seed), truth) for seed in range(n_sets)]
        stated = [each for each in found if each]
        by_rule, percentiles = np.mean([each[:2] for each in stated], axis=0)
        shares = f"{by_rule:>9.3f}{stated[0][2]:>11}{percentiles:>13.3f}{len(found) - len(stated):>13}"
        print(f"{sd:<6}{truth:<8.0f}{groups:<8}{shares}", flush=True)


def covered(rows: pd.DataFrame, truth: float) -> tuple[bool, bool, str] | None:
    """Whether the interval by rule and the percentiles hold the truth, and the rule's method; None without interval."""
    counts, sought = level_counts(rows, "duration_ms"), Sought(MODEL, balanced_cells, 0.75, scaled=True)
    value = fit_whole(counts, sought).threshold(0.75).value
    found = threshold_interval(counts, sought, value, n_boot=499, seed=0) if value else None
    if found is None or found.ends is None:
        return None
    low, high = found.ends
    drawn = resample(lambda weights: np.hstack(balanced_cells(counts.drawn(weights))), counts.units, 499, 0)
    ends = ordered_interval(refit_thresholds(MODEL, *np.hsplit(drawn, 2), 0.75, falling=False), 0.025)
    held = (low or 0) <= truth <= (high or math.inf)
    return held, ends.low <= math.log10(truth) <= ends.high, str(found.method)


def simulated(groups: int, sd: float, middle: float, seed: int) -> pd.DataFrame:
    """Groups nested in class, of 1 to 7 clips a level, whose logits differ by `sd`."""
    rng, parts = np.random.default_rng(seed), []
    for label in CLASSES:
        for group in range(groups):
            levels = np.repeat(MS, rng.integers(1, 8))
            psi = 0.5 + 0.48 * expit(4.5 * np.log10(levels / middle) + sd * rng.normal())
            parts.append(pd.DataFrame({"duration_ms": levels, "right": rng.random(len(levels)) < psi}))
            parts[-1] = parts[-1].assign(label=label, group_id=f"{label}{group}")
    return pd.concat(parts, ignore_index=True)


def true_threshold(sd: float, middle: float) -> float:
    """Of the curve fitted to the expected share correct over 100,000 groups."""
    shift = sd * np.random.default_rng(0).normal(size=(100_000, 1))
    mean = (0.5 + 0.48 * expit(4.5 * np.log10(MS / middle) + shift)).mean(axis=0)
    value = fit_counts(MODEL, mean * 1e6, np.full(len(MS), 1e6)).threshold(0.75).value
    assert value is not None
    return value


def main() -> None:
    """Speed always; coverage where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", type=int, default=0, metavar="DATA_SETS")
    parser.add_argument("--clips", type=int, default=21_340)
    asked = parser.parse_args()
    if asked.coverage:
        coverage(asked.coverage)
    else:
        refits(1000, 200)
        for durations, skill in itertools.product((MS, np.geomspace(20, 1000, 22).round()), (3.0, 0.0)):
            section(asked.clips, durations, skill)


if __name__ == "__main__":
    main()
