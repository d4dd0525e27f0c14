"""How long 10,000 resamples of groups take on a table of 21,340 rows, beside a plain loop over pandas.

python -m tests.bench.bench_bootstrap

970 base clips under 22 conditions, once with a group for each base clip and once with 40 groups. A line a statistic:
CPU seconds for all resamples (of all threads: on an idle machine no less than what a clock shows), and how many times
as long the plain loop takes, drawn `--plain` times and scaled up. The exit code is 1 where decision metrics, Brier
score, log loss, ECE and AUC together take more than 2 s, or the average precision or a function of the rows more
than 15 s.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, roc_auc_score

from tasks.functional.calibration import calibration_error
from tasks.functional.metrics import dprime
from tasks.functional.resampling import _kept_draws
from tasks.functional.significance import cluster_bootstrap

S, N = "SPEECH", "NONSPEECH"
CLIPS, CONDITIONS = 970, 22
TOGETHER_S, ALONE_S = 2.0, 15.0
Plain = Callable[[pd.DataFrame], float]


def observer(t: pd.DataFrame) -> tuple[float, float]:
    """d' and criterion."""
    speech, said = t.label == S, t.prediction == S
    return dprime((said & speech).sum(), speech.sum(), (said & ~speech).sum(), (~speech).sum())


def balanced(t: pd.DataFrame) -> float:
    """Balanced accuracy as one would write it."""
    return float((t.prediction == t.label).groupby(t.label).mean().mean())


TOGETHER: dict[str, Plain] = {
    "accuracy": lambda t: (t.prediction == t.label).mean(),
    "balanced_accuracy": balanced,
    "recall_speech": lambda t: (t.prediction[t.label == S] == S).mean(),
    "recall_nonspeech": lambda t: (t.prediction[t.label == N] == N).mean(),
    "precision_speech": lambda t: precision_score(t.label == S, t.prediction == S),
    "precision_nonspeech": lambda t: precision_score(t.label == N, t.prediction == N),
    "f1_speech": lambda t: f1_score(t.label == S, t.prediction == S),
    "f1_nonspeech": lambda t: f1_score(t.label == N, t.prediction == N),
    "d_prime": lambda t: observer(t)[0],
    "criterion": lambda t: observer(t)[1],
    "brier": lambda t: ((t.p_speech - (t.label == S)) ** 2).mean(),
    "log_loss": lambda t: log_loss(t.label == S, t.p_speech),
    "ece": lambda t: calibration_error(t.p_speech, t.label),
    "roc_auc": lambda t: roc_auc_score(t.label == S, t.p_speech),
}
ALONE: dict[str, tuple[str | Plain, Plain]] = {
    "average_precision": ("average_precision", lambda t: average_precision_score(t.label == S, t.p_speech)),
    "a function (balanced accuracy)": (balanced, balanced),
}


def predictions(groups: int, seed: int = 0) -> pd.DataFrame:
    """Clips of groups that differ in how hard they are, under all conditions."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(np.arange(CLIPS), CONDITIONS)
    group = clip % groups
    speech = group % 2 == 0
    margin = np.where(speech, 1, -1) + rng.normal(0, 1, groups)[group] + rng.normal(0, 1, len(clip))
    p = 1 / (1 + np.exp(-margin))
    names = [f"clip{c:03d}_{i % CONDITIONS}" for i, c in enumerate(clip)]
    return pd.DataFrame({
        "clip_id": names, "group_id": [f"group{g:03d}" for g in group], "label": np.where(speech, S, N),
        "prediction": np.where(p >= 0.5, S, N), "p_speech": p,
    })  # fmt: skip


def plain_loop(table: pd.DataFrame, statistic: Plain, n_boot: int) -> list[float]:
    """Groups drawn within class, their rows put together, the statistic of them; as many times as asked."""
    rng, groups = np.random.default_rng(0), dict(iter(table.groupby("group_id")))
    of_class = [rows["group_id"].unique() for _, rows in table.groupby("label")]
    return [
        statistic(pd.concat([groups[name] for names in of_class for name in rng.choice(names, len(names))]))
        for _ in range(n_boot)
    ]


def seconds(run: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(groups: int, n_boot: int, plain: int) -> bool:
    """Print all times for so many groups; whether they are within bounds."""
    table = predictions(groups)
    print(f"{len(table):,} rows, {groups} groups, {n_boot:,} resamples")
    _kept_draws.cache_clear()

    def line(name: str, statistic: str | Plain, by_hand: Plain) -> float:
        took = seconds(lambda: cluster_bootstrap(table, statistic, seed=0, n_boot=n_boot))
        loop = seconds(lambda: plain_loop(table, by_hand, plain)) * n_boot / plain
        print(f"  {name:<32}{took:>8.3f} s{loop / took:>9,.0f} x", flush=True)
        return took

    together = sum(line(name, name, by_hand) for name, by_hand in TOGETHER.items())
    print(f"  {'these together':<32}{together:>8.3f} s, at most {TOGETHER_S:g}")
    alone = [line(name, *statistics) for name, statistics in ALONE.items()]
    return together <= TOGETHER_S and max(alone) <= ALONE_S


def main() -> int:
    """Both designs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-boot", type=int, default=10_000)
    parser.add_argument("--plain", type=int, default=3, help="draws of the plain loop, scaled up")
    given = parser.parse_args()
    within = [measure(groups, given.n_boot, given.plain) for groups in (CLIPS, 40)]
    return int(not all(within))


if __name__ == "__main__":
    sys.exit(main())
