"""What the costly part of `earshot verify` takes: the report rebuilt from a published table, in seconds, wall and CPU.

python -m tests.bench.bench_verify --groups 100

100 groups of each class give 21,600 test clips, each scored by an adapter and its base, generated and by forward, and by
two baselines; 10,000 resamples, as studies ask for. The issue's limit is 60 s for 21,340 rows, without torch.
"""

import argparse
import sys
import time

from tests.test_report import build, make_predictions


def main() -> None:
    """Print what one rebuilding takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=100, help="of each class")
    table = make_predictions(groups=parser.parse_args().groups, per_cell=12, seeds=(42,))
    table = table[table["split"] == "test"]
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    build(table, n_boot=10_000, factors=None)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    print(f"{len(table):,} rows of {table['clip_id'].nunique():,} clips: {wall_s:.1f} s, {cpu_s:.1f} s of CPU")
    assert "torch" not in sys.modules, "verification needs none"


if __name__ == "__main__":
    main()
