"""What a whole `earshot verify` takes of an adapter and of a data set of 21,340 clips and more, in seconds of the clock.

    python -m tests.bench.bench_verify

The adapter's predictions are those of a study of 970 cuts in 22 conditions: an adapter and its base, generated and by
forward, and three baselines, 149,380 rows of 21,340 test clips, and 10,000 resamples. The data set has 21,600 clips. Both
lie in a hub as studies publish them and are verified by name: hashes, headers, schemas, report, tables and cards. Exits 1
where one of them takes over 60 s, differs, or imports torch.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from tests.bench.bench_report import DETECTORS, ROOT, table_of

LIMIT_S = 60.0
ADAPTER, CLIPS = "earshot/smoke-adapter", "earshot/large-clips"
LARGE = (
    "publish.dataset=large-clips",
    "dataset.clips.duration_ms=[60]",  # long clips of so few generated sounds are taken for copies of one another
    "dataset.clips.snr_db=[0, 10]",
    "dataset.clips.per_cell={train: 4000, dev: 600, test: 800}",
)
VERIFY = (
    "import sys; from flows.cli import main\ntry: main()\nfinally: sys.exit(9) if 'torch' in sys.modules else None"
)


def earshot(*arguments: str) -> None:
    """A command that must succeed."""
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def predictions() -> pd.DataFrame:
    """The columns of a study's table over the rows that `bench_report` makes."""
    rows = table_of(DETECTORS).drop(columns=["condition", "rt60_s"])
    rows = rows.assign(split="test", protocol="group", fold=0, seed=None)
    rows.loc[rows["detector"] == "adapter", "seed"] = 42
    models = rows[rows["detector"].isin(["adapter", "base"])]
    rest = rows[~rows["detector"].isin(["adapter", "base"])].assign(method=None)
    return pd.concat([*(models.assign(method=method) for method in ("generate", "forward")), rest], ignore_index=True)


def enlarge() -> str:
    """Publish the adapter of the smoke study again with that table and the report and card that follow from it."""
    from tasks.cards import TEMPLATES, template
    from tasks.functional.card_evidence import measured_conditions
    from tasks.functional.cards import render_model_card
    from tasks.functional.report import RECORDED, Report, build_report
    from tasks.functional.report_files import report_files
    from tasks.hub import find, publish
    from tasks.point_metrics import point_metrics
    from tasks.store import file_digests, read_json, sha256, write_json

    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(find(ADAPTER)[0], Path(place, "adapter")))
        predictions().to_parquet(folder / "predictions.parquet", index=False)
        table = pd.read_parquet(folder / "predictions.parquet")
        recorded = {key: read_json(folder / "report.json")[key] for key in RECORDED}
        origin = recorded["provenance"]
        origin["predictions_sha256"] = sha256(folder / "predictions.parquet")
        origin["settings"] |= {"n_boot": 10_000, "threshold": "fixed"}
        origin["heard"]["conditions"] = measured_conditions(table)
        report = build_report(table, recorded=recorded, point_metrics=point_metrics, **origin["settings"])
        shutil.rmtree(folder / "tables")
        shutil.rmtree(folder / "figures")
        files = report_files(report, (TEMPLATES / "report.html.j2").read_text(encoding="utf-8"))
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        stated, timing = read_json(folder / "report.json"), read_json(folder / "evidence" / "timing.json")
        card = render_model_card(template("model_card"), Report.model_validate(stated), timing)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "files.json").unlink()
        write_json(folder / "files.json", dict(sorted(file_digests(folder).items())))
        sha = publish(folder, "model", ADAPTER).sha
    print(f"{ADAPTER}: {len(table):,} rows of {table['clip_id'].nunique():,} clips", flush=True)
    return f"{ADAPTER}@{sha}"


def seconds(repo: str) -> float:
    """What the command takes, from its start to its end. Raises AssertionError where it differs or imports torch."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", VERIFY, "verify", repo], cwd=ROOT, capture_output=True, text=True)
    taken_s, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0, f"exit {done.returncode} (9: torch was imported)\n{done.stdout}{done.stderr[-3000:]}"
    print(f"verify {repo}: {len(done.stdout.splitlines())} lines in {taken_s:.1f} s, {cpu_s:.1f} s of CPU", flush=True)
    return taken_s


def main() -> None:
    """Make both, verify both."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["EARSHOT_HOME"] = home
        earshot("run", "study/smoke")
        earshot("build", "study/smoke", *(part for override in LARGE for part in ("--set", override)))
        adapter = enlarge()
        slowest_s = max(seconds(adapter), seconds(CLIPS))
    if slowest_s > LIMIT_S:
        sys.exit(f"{slowest_s:.1f} s are more than {LIMIT_S:.0f} s")


if __name__ == "__main__":
    main()
