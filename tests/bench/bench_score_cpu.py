"""Scoring with the tiny model on a CPU: the original way against ours, all in one run, ratios side by side.

    python -m tests.bench.bench_score_cpu [--clips 256]

Clips are 80 to 1000 ms long. The model is so small that most of the time goes into features and Python: the ratios say
what padding, batches of one and repeated work cost there, and nothing about a model of 7 B (see bench_score_gpu).
"""

import argparse
import os
import tempfile

import numpy as np
import torch

from tasks.models import family, tiny
from tasks.models.encoding import kept_encodings
from tasks.models.scoring import questions
from tests.bench.scoring_rows import PROMPTS, make_clips, more_prompts, original, ours

DURATIONS_MS = (80, 100, 200, 500, 1000)  # of 60 ms and less a clip alone fails in transformers' own generate


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--original", type=int, default=24, help="clips of the baseline")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        processor = tiny.make_processor()
        model = tiny.make_model(processor, seed=3).eval()
        clips = make_clips(given.clips, DURATIONS_MS)
        asked = questions(processor, PROMPTS, ["A", "B"])
        few = clips[: given.original]
        rows = [
            original("the original: generate, batch 1, padded to 30 s", model, processor, few, PROMPTS[0], asked[0], 2)
        ]
        family.prepare(model)
        rows += [
            ours("generate, constrained, trimmed", model, processor, clips, asked[:1], method="generate"),
            ours("one forward, trimmed, last position", model, processor, clips, asked[:1]),
            ours("encoder cache", model, processor, clips, asked[:1], cache=kept_encodings(model, processor)),
            more_prompts("one more prompt", model, processor, clips, asked, cache=kept_encodings(model, processor)),
        ]
    for row in rows:
        print(f"{row.name:48} {row.clips_per_s:8.1f} clips/s {row.clips_per_s / rows[0].clips_per_s:6.1f} x")
    apart = max(float(np.abs(row.p_first[: len(few)] - rows[0].p_first).max()) for row in rows)
    print(f"P at most {apart:.1g} from the padded model's")


if __name__ == "__main__":
    main()
