"""How often a race chooses what the full search chooses, and at what share of its answers, on real scores.

python -m tests.bench.bench_racing --home HOME --draws 1000 --seed 7

Eighty prompts (by hand and of the grammar) are asked of each study's real base and adapter on real dev and test clips. A
draw takes groups anew within class until there are 150 clips, and 40 prompts in an order of its own; the first is
known, the others come in 5 rounds of 8. Nothing of the racer's own model enters. Beside the race stands what its
share of answers would buy without it: every prompt asked of the same first blocks, the best on those taken.
"some stand out": 34 prompts of the base and 6 of the adapter, a spread such as the original reports between prompts of one
model; in all other tables prompts are near to equal, and which is best by a clip is mostly chance.
Some 6 minutes on 2 cores, less where HOME has the scores already. Other seeds are other draws of the same
scores: what a constant is chosen on is not what it is judged on.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PROMPTS, RACED, ROUNDS, CLIPS = 80, 40, 5, 150


class Table(NamedTuple):
    """margin (prompts, clips): log odds; group (clips,); first (clips,): whether it is of the first class."""

    margin: np.ndarray
    group: np.ndarray
    first: np.ndarray


def trained(study: str) -> dict[str, Table]:
    """Every prompt's log odds by base and adapter of a study that is trained where it is not yet."""
    kept = Path(os.environ["EARSHOT_HOME"]) / "bench_racing"
    files = {model: kept / f"{study.replace('/', '-')}-{model}.npz" for model in ("base", "adapter")}
    if not all(file.exists() for file in files.values()):
        subprocess.run([sys.executable, "-m", "flows.cli", "train", study], cwd=ROOT, check=True, capture_output=True)
        kept.mkdir(exist_ok=True)
        for model, file in files.items():
            np.savez(file, **score(study, model)._asdict())
    return {model: Table(**np.load(file)) for model, file in files.items()}


def score(study: str, model: str) -> Table:
    """One model's answers to all prompts on the dev and test clips of fold 0."""
    import pandas as pd
    from transformers import AutoProcessor

    from flows.build_dataset import build_dataset
    from flows.train_adapters import question_of, train_adapters
    from recipes.schema import load_study
    from tasks.cache import looking_up
    from tasks.detectors.audio_llm import load, read
    from tasks.hub import rehearsal
    from tasks.models.jobs import AskingJob
    from tasks.models.scoring import Scorer, questions

    recipe = load_study(study)
    with rehearsal(), looking_up():
        fold = train_adapters.fn(recipe, build_dataset.fn(recipe))[0]
    sides = recipe.dataset.splits.sides(0)
    files = [str(fold.splits.path / "data" / f"{part}.parquet") for part, side in sides.items() if side != "train"]
    job = AskingJob(
        question=question_of(recipe), device="cpu", output="", base=str(fold.tiny.path), revision=None,
        quantization=recipe.train.quantization, adapter=str(fold.adapters[0].path) if model == "adapter" else None,
        base_revision="", code="",
    )  # fmt: skip
    processor = AutoProcessor.from_pretrained(job.base)
    scorer, clips = Scorer(load(job), processor), read(files)
    rows = pd.concat([pd.read_parquet(file, columns=["clip_id", "group_id", "label"]) for file in files])
    asked = questions(processor, prompts(recipe), recipe.answers)
    margins = [margins_of(answers) for answers in scorer.score(clips.flacs, asked)]
    return Table(
        np.array(margins), rows["group_id"].to_numpy().astype(str), (rows["label"] == recipe.classes[0]).to_numpy()
    )


def prompts(recipe: Any) -> list[str]:
    """The study's prompt, those by hand that choose between letters, and as many of the grammar as are missing."""
    from recipes.prompts import default_search
    from tasks.functional.prompt_grammar import propose
    from tasks.functional.prompt_text import usable

    by_hand = [one.text for one in default_search().prompts if one.answers is None]
    known = list(dict.fromkeys([recipe.prompt, *by_hand]))
    new = propose(known[:6], 2 * PROMPTS, recipe.answers, recipe.classes, known, 0)
    return [*known, *usable(new, known, recipe.answers, recipe.classes, 60)[0]][:PROMPTS]


def margins_of(answers: Any) -> np.ndarray:
    """Log odds, on the side that was said."""
    from tasks.models.listening import log_odds

    size = np.maximum(np.abs(log_odds(answers.p_first)), 1e-9)
    return np.where(answers.said_first, size, -size)


# --- draws -------------------------------------------------------------------------------------------------------


def drawn(table: Table, rows: np.ndarray, random: np.random.Generator) -> Table:
    """These prompts on groups drawn with replacement within class, each draw a group of its own."""
    columns, groups = [], []
    for side in (True, False):
        held, names = 0, np.unique(table.group[table.first == side])
        while held < CLIPS / 2:
            its = np.flatnonzero((table.group == random.choice(names)) & (table.first == side))
            columns.append(its)
            groups.append(np.full(len(its), len(groups)))
            held += len(its)
    place = np.concatenate(columns)
    return Table(table.margin[np.ix_(rows, place)], np.concatenate(groups), table.first[place])


def outcome(table: Table, confidence: float, seed: int) -> tuple[float, ...]:
    """Whether the race chose what the full search does, its share of answers, what its choice lacks, and the first two of
    the best on the first blocks."""
    from recipes.prompts import RaceBlock
    from tasks.functional.prompt_race import Standing, clips_in_blocks, known_score, race

    clips = clips_in_blocks(table.group.tolist(), table.first.tolist(), RaceBlock().blocks, seed)
    full = np.array([known_score(row, clips) for row in table.margin])
    known = np.full(table.margin.shape, np.nan)
    known[0] = table.margin[0]
    standing = Standing(known, np.where(np.arange(len(full)) == 0, full, np.nan), 0)
    for some in np.array_split(np.arange(1, len(full)), ROUNDS):
        standing = race(lambda prompts, places: table.margin[np.ix_(prompts, places)], clips, standing, some.tolist(),
                        np.zeros(len(full)), confidence, seed)  # fmt: skip
    share = standing.evaluations / known.size
    seen = np.arange(clips.blocks)[np.cumsum(np.bincount(clips.block)) <= share * len(clips.block) + 1]
    first = np.isin(clips.block, seen if len(seen) else [0])
    on_first = ((table.margin * clips.sign > 0) * clips.weight)[:, first].sum(axis=1)
    best, other = int(np.argmax(full)), int(np.argmax(on_first))
    return (
        standing.best == best,
        share,
        full[best] - full[standing.best],
        other == best,
        full[best] - full[other],
        full.std(),
    )


Parts = list[tuple[int, int, int]]  # the prompts of a draw: from, to, how many of them


def one_draw(table: Table, parts: Parts, confidence: float, seed: int, k: int) -> tuple[float, ...]:
    """The outcome of draw k: prompts of each part, in any order, on groups drawn anew."""
    random = np.random.default_rng([seed, k])
    chosen = [random.choice(np.arange(a, b), n, replace=False) for a, b, n in parts]
    prompts = random.permutation(np.concatenate(chosen))
    return outcome(drawn(table, prompts, random), confidence, int(random.integers(2**31)))


def line(name: str, table: Table, parts: Parts, asked: argparse.Namespace, confidence: float) -> str:
    """One table's row: means over the draws, of shares with their standard errors."""
    draw = partial(one_draw, table, parts, confidence, asked.seed)
    with ProcessPoolExecutor(2, initializer=os.environ.update, initargs=({"OMP_NUM_THREADS": "1"},)) as pool:
        found = np.array(list(pool.map(draw, range(asked.draws), chunksize=20)), dtype=float)
    same, share, lacks, other, other_lacks, spread = found.mean(axis=0)
    of_same, of_share = found[:, :2].std(axis=0, ddof=1) / np.sqrt(len(found))
    race = f"{100 * same:>10.1f}{100 * of_same:>5.1f}{100 * share:>9.1f}{100 * of_share:>5.1f}"
    least = f"{100 * lacks:>9.2f}{100 * found[:, 2].max():>8.1f}"
    return f"{name:<34}{100 * spread:>7.1f}{race}{least}{100 * other:>14.1f}{100 * other_lacks:>8.2f}"


def main() -> None:
    """A row a table of scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default=os.environ.get("EARSHOT_HOME", "~/.earshot"))
    parser.add_argument("--studies", nargs="+", default=["study/demo"])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--confidence", type=float, nargs="+", help="by default that of the recipe")
    asked = parser.parse_args()
    from recipes.prompts import RaceBlock

    os.environ["EARSHOT_HOME"] = str(Path(asked.home).expanduser().absolute())
    print(
        f"{'scores':<34}{'spread':>7}{'same (%)':>10}{'se':>5}{'share':>9}{'se':>5}{'lacks':>9}{'worst':>8}"
        f"{'first blocks:':>14}{'lacks':>8}"
    )
    for study in asked.studies:
        tables = trained(study)
        for confidence in asked.confidence or [RaceBlock().confidence]:
            for model, table in tables.items():
                every = [(0, len(table.margin), RACED)]
                print(line(f"{study} {model} {confidence:g}", table, every, asked, confidence), flush=True)
            base, adapter = tables["base"], tables["adapter"]
            both = Table(np.concatenate([base.margin, adapter.margin]), base.group, base.first)
            few = [(0, len(base.margin), 34), (len(base.margin), len(both.margin), 6)]
            print(line(f"{study} some stand out {confidence:g}", both, few, asked, confidence), flush=True)
    print(
        "spread: sd of balanced accuracy over prompts, lacks: what the choice has less than the best, both in points of 100"
    )


if __name__ == "__main__":
    main()
