"""The child process that searches for a prompt: it asks the audio LLM, and has new prompts proposed."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recipes.prompts import PromptBlock
from tasks.detectors.audio_llm import identity, load, read
from tasks.functional.prompt_grammar import propose
from tasks.functional.prompt_meta import Mistake, Scored, describe_clip
from tasks.functional.prompt_race import Clips, Standing, ask_all, race, standing_so_far
from tasks.functional.prompt_search import HELD_OUT, SEARCH
from tasks.functional.prompt_text import same, usable
from tasks.models import family, scoring
from tasks.models.encoding import kept_encodings
from tasks.models.listening import NoProcessorWarnings, check, log_odds
from tasks.models.prompt_jobs import PromptJob
from tasks.models.proposals import Asked, llm_proposals
from tasks.models.score_log import ScoreLog

LEAST_MARGIN = 1e-9  # of log odds, so that an answer of P = .5 keeps its side


def main(path: str) -> None:
    """Write scores.parquet: prompt, clip_id, p_speech, prediction for every answer; search.json: prompts, rounds, what was
    dropped and why, and what it took."""
    job = PromptJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    processor = family.load_processor(job.base, job.revision)
    with NoProcessorWarnings():
        model = load(job)
        scorer = scoring.Scorer(model, processor, kept_encodings(model, processor), job.recipe.batch_size)
        search = Search(job, Asker(job, scorer, processor))
        heard = check(scorer, processor, search.asker.question(job.reference), job.reference.text, search.asker.flacs)
        search.run()
    search.scores().to_parquet(Path(job.output, "scores.parquet"), index=False)
    found = {**search.record(), "listening": heard}
    Path(job.output, "search.json").write_text(json.dumps(found), encoding="utf-8")
    if search.asker.recalled:
        print(f"{search.asker.recalled:,} answers were kept from an earlier search and not asked again", flush=True)
    if (waited := scorer.clock.waiting_share()) is not None:
        print(f"the GPU waited {waited:.1%} of the time between batches", flush=True)


class Asker:
    """One model's log odds for prompts on the dev clips of a job; every answer is kept, and asked only once."""

    def __init__(self, job: PromptJob, scorer: scoring.Scorer, processor: Any) -> None:
        self.job, self.scorer, self.processor = job, scorer, processor
        self.rows = pd.read_parquet(job.clips)
        known = read(job.files)
        flac = dict(zip(known.ids, known.flacs, strict=True))
        self.flacs = [flac[clip] for clip in self.rows["clip_id"]]
        self.identity = identity(job)
        self.logs: dict[tuple[Any, ...], ScoreLog] = {}
        self.asked = self.recalled = 0

    def question(self, prompt: PromptBlock) -> scoring.Question:
        """The prompt as tokens. Raises ValueError where an answer of it is no single token."""
        return scoring.questions(self.processor, [prompt.text], prompt.answers or self.job.question.answers)[0]

    def log(self, prompt: PromptBlock) -> ScoreLog:
        """What this model answered to a prompt in searches so far.

        Not in evaluations: theirs come of other batches, and a search is the same to the bit whether or not one came before.
        """
        key = prompt.text, prompt.answers
        if key not in self.logs:
            self.logs[key] = ScoreLog.of(self.identity, [self.question(prompt)], "search")
        return self.logs[key]

    def margins(self, prompts: Sequence[PromptBlock], places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log odds of the first class, (prompts, places); what is not kept yet is asked of all prompts together."""
        flacs, logs = [self.flacs[place] for place in places], [self.log(prompt) for prompt in prompts]
        missing = np.array([[log.clip(flac) is None for flac in flacs] for log in logs])
        self.asked += missing.size
        self.recalled += int((~missing).sum())
        for columns, rows in _alike(missing):
            clips, asked = [flacs[k] for k in columns], [self.question(prompts[k]) for k in rows]
            for at, found in self.scorer.scored(clips, asked):
                for row, narrow in zip(rows, found, strict=True):
                    logs[row].add([clips[k] for k in at], [narrow])
        return np.stack([self.kept(prompt, log, flacs) for prompt, log in zip(prompts, logs, strict=True)])

    def kept(self, prompt: PromptBlock, log: ScoreLog, flacs: Sequence[bytes]) -> NDArray[np.float64]:
        """Log odds in a log that knows all these clips, (clips,)."""
        rows = [found[0] for flac in flacs if (found := log.clip(flac)) is not None]
        answers = scoring.answers_of(np.concatenate(rows), self.question(prompt))
        size = np.maximum(np.abs(log_odds(answers.p_first)), LEAST_MARGIN)
        return np.where(answers.said_first, size, -size)


def _alike(missing: NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """(columns, rows) of those prompts that miss the same clips, none where nothing is missing."""
    together: dict[tuple[int, ...], list[int]] = {}
    for row, its in enumerate(missing):
        together.setdefault(tuple(np.flatnonzero(its).tolist()), []).append(row)
    return [(list(columns), rows) for columns, rows in together.items() if columns]


class Candidate(NamedTuple):
    """A prompt of the search: which round it came in (0: by hand) and who wrote it."""

    prompt: PromptBlock
    round: int
    by: str


class BudgetSpent(Exception):
    """The search may ask no more."""


class Search:
    """Rounds of candidates, raced or asked in full, and the winner judged on clips of other groups."""

    def __init__(self, job: PromptJob, asker: Asker) -> None:
        self.job, self.asker, self.recipe = job, asker, job.recipe
        rows = asker.rows
        self.place = np.flatnonzero(rows["role"] == SEARCH)
        self.judging = np.flatnonzero(rows["role"] == HELD_OUT)
        own = rows.iloc[self.place]
        group = pd.factorize(own["group_id"], sort=True)[0]
        first = (own["label"] == job.question.classes[0]).to_numpy()
        self.clips = Clips(group, first, own["block"].to_numpy())
        self.candidates: list[Candidate] = []
        self.standing = Standing(np.empty((0, len(own))), np.empty(0), 0)
        self.judged: dict[int, NDArray[np.float64]] = {}
        self.dropped: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.stopped = "all rounds done"
        self.begin = time.monotonic()

    def run(self) -> None:
        """The reference in full, those written by hand, round after round, then the judgement.

        Raises ValueError where the budget is spent before the reference is known.
        """
        self.enter([Candidate(self.job.reference, 0, "hand")])
        try:
            self.standing = ask_all(self.ask, self.clips, self.standing, [0], self.penalty)
        except BudgetSpent as spent:
            raise ValueError(
                f"{spent} before the study's own prompt was asked of all {len(self.place)} search clips: raise search.budget"
            ) from spent
        try:
            self.run_round(0, [Candidate(prompt, 0, "hand") for prompt in self.by_hand()])
            for number in range(1, self.recipe.rounds + 1):
                if not (new := self.new_candidates(number)):
                    self.stopped = f"round {number}: no new prompt that may be asked"
                    break
                self.run_round(number, new)
        except BudgetSpent as spent:
            self.stopped = str(spent)
        if self.stopped != "all rounds done":
            print(f"search ends: {self.stopped}", flush=True)
        self.judge()

    def enter(self, new: Sequence[Candidate]) -> list[int]:
        """Numbers for new candidates."""
        first = len(self.candidates)
        self.candidates += new
        empty = np.full((len(new), len(self.place)), np.nan)
        score = np.concatenate([self.standing.score, np.full(len(new), np.nan)])
        self.standing = Standing(np.vstack([self.standing.margin, empty]), score, self.standing.best)
        return list(range(first, len(self.candidates)))

    def run_round(self, number: int, new: Sequence[Candidate]) -> None:
        """One round of candidates against the best so far."""
        runners, before = self.enter(new), self.standing.evaluations
        race_block = self.recipe.race
        try:
            if race_block is None:
                self.standing = ask_all(self.ask, self.clips, self.standing, runners, self.penalty)
            else:
                self.standing = race(self.ask, self.clips, self.standing, runners, self.penalty, race_block.confidence,
                                     self.recipe.seed + number)  # fmt: skip
        except BudgetSpent:
            self.standing = standing_so_far(self.standing, self.clips, self.penalty)
            raise
        finally:
            best = self.standing.best
            asked = self.standing.evaluations - before
            self.rounds.append({"round": number, "candidates": len(new), "evaluations": asked, "best": best,
                                "score": float(self.standing.score[best])})  # fmt: skip
        told = f"{asked} of {len(new) * len(self.place)} answers asked; best {self.standing.score[best]:.3f}"
        text = self.candidates[best].prompt.text
        print(f"round {number}/{self.recipe.rounds}: {len(new)} candidates, {told}: {text[:90]}", flush=True)

    def ask(self, numbers: Sequence[int], places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Margins of candidates on search clips, kept at once, for a budget may end the round that asked for them.

        Raises BudgetSpent where they are more than may be asked.
        """
        budget = self.recipe.budget
        if budget.evaluations is not None and self.asker.asked + len(numbers) * len(places) > budget.evaluations:
            raise BudgetSpent(f"the budget of {budget.evaluations} evaluations is spent")
        if budget.minutes is not None and time.monotonic() - self.begin > 60 * budget.minutes:
            raise BudgetSpent(f"the budget of {budget.minutes:g} minutes is spent")
        found = self.asker.margins([self.candidates[k].prompt for k in numbers], self.place[places])
        self.standing.margin[np.array(numbers)[:, None], places] = found
        return found

    @property
    def penalty(self) -> NDArray[np.float64]:
        """What length takes from each candidate's score."""
        words = [len(candidate.prompt.text.split()) for candidate in self.candidates]
        return self.recipe.length_penalty * np.array(words, dtype=float)

    # --- candidates ----------------------------------------------------------------------------------------------

    def by_hand(self) -> list[PromptBlock]:
        """The recipe's prompts that this model can be asked: others, and the reference itself, are dropped and logged."""
        kept = []
        for prompt in self.recipe.prompts:
            try:
                self.asker.question(prompt)
            except ValueError as error:
                self.drop(0, prompt.text, str(error))
                continue
            if same(prompt.text) == same(self.job.reference.text):
                self.drop(0, prompt.text, "the study's own prompt, asked as such")
            else:
                kept.append(prompt)
        return kept

    def new_candidates(self, number: int) -> list[Candidate]:
        """A round's prompts, of the proposer, and of the grammar where that has too few that may be asked."""
        wanted, answers, classes = self.recipe.candidates, self.job.question.answers, self.job.question.classes
        taken = [candidate.prompt.text for candidate in self.candidates]
        found: list[Candidate] = []
        if self.recipe.proposer.kind == "llm":
            for attempt in range(self.recipe.proposer.attempts):
                if len(found) >= wanted:
                    break
                said = llm_proposals(self.asked_of_llm(number, attempt, wanted))
                found += self.sift(said, number, [*taken, *(one.prompt.text for one in found)], "llm")
            if len(found) < wanted:
                print(
                    f"round {number}: the proposer gave {len(found) or 'nothing'} usable of {wanted} in "
                    f"{self.recipe.proposer.attempts} calls; the grammar fills the round",
                    flush=True,
                )
        if (left := wanted - len(found)) > 0:
            best = [one.prompt.text for one in self.best_first() if one.prompt.answers in (None, answers)][:3]
            known = [*taken, *(one.prompt.text for one in found)]
            offered = propose(best, 4 * left, answers, classes, known, self.recipe.seed + number)
            found += self.sift(offered, number, known, "grammar")[:left]
        return found[:wanted]

    def sift(self, texts: Sequence[str], number: int, known: Sequence[str], by: str) -> list[Candidate]:
        """What may be asked of what was proposed; the rest is logged with its reason."""
        question = self.job.question
        kept, dropped = usable(texts, known, question.answers, question.classes, self.recipe.most_words)
        for text, reason in dropped:
            self.drop(number, text, reason)
        return [Candidate(PromptBlock(text=text, origin=f"{by}, round {number}"), number, by) for text in kept]

    def drop(self, number: int, text: str, reason: str) -> None:
        """Log a candidate that is not asked."""
        self.dropped.append({"round": number, "text": text, "reason": reason})

    def best_first(self) -> list[Candidate]:
        """All candidates, the best one first."""
        order = np.argsort(-np.nan_to_num(self.standing.score, nan=-1.0), kind="stable")
        return [self.candidates[k] for k in order]

    def asked_of_llm(self, number: int, attempt: int, n: int) -> Asked:
        """What the proposer is told in this round; it writes for accuracy, and length is weighed afterwards."""
        scored = [
            Scored(one.prompt.text, float(score))
            for one, score in zip(self.candidates, self.standing.score + self.penalty, strict=True)
            if np.isfinite(score)
        ]
        question = self.job.question
        return Asked(self.recipe.proposer, scored, self.mistakes(), question.answers, question.classes,
                     self.recipe.most_words, n, self.recipe.seed + 1000 * number + attempt)  # fmt: skip

    def mistakes(self) -> list[Mistake]:
        """Search clips that the best prompt gets wrong, the surest mistakes first."""
        wrong = -self.standing.margin[self.standing.best] * self.clips.sign
        worst = [int(k) for k in np.argsort(-wrong, kind="stable")[: self.recipe.proposer.errors] if wrong[k] > 0]
        rows, classes = self.asker.rows.iloc[self.place], self.job.question.classes
        said = dict(zip(classes, classes[::-1], strict=True))
        return [
            Mistake(describe_clip(row), said[row["label"]], row["label"])
            for row in rows.iloc[worst].to_dict("records")
        ]

    # --- the end -------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Reference, winner and what was written by hand, asked on clips of groups that took no part in the search."""
        whole = [0, self.standing.best, *(k for k, one in enumerate(self.candidates) if one.by == "hand")]
        numbers = list(dict.fromkeys(whole))
        margins = self.asker.margins([self.candidates[k].prompt for k in numbers], self.judging)
        self.judged = dict(zip(numbers, margins, strict=True))
        print(f"{len(numbers)} prompts judged on {len(self.judging)} clips that took no part", flush=True)

    def scores(self) -> pd.DataFrame:
        """Every answer: prompt, clip_id, p_speech, prediction."""
        parts = [(k, self.place, self.standing.margin[k]) for k in range(len(self.candidates))]
        parts += [(k, self.judging, margin) for k, margin in self.judged.items()]
        tables = []
        for number, places, margin in parts:
            there = ~np.isnan(margin)
            ids = self.asker.rows["clip_id"].to_numpy()[places[there]]
            said = np.where(margin[there] > 0, *self.job.question.classes)
            p = 1 / (1 + np.exp(-margin[there]))
            tables.append(pd.DataFrame({"prompt": number, "clip_id": ids, "p_speech": p, "prediction": said}))
        return pd.concat(tables, ignore_index=True)

    def record(self) -> dict[str, Any]:
        """What the report is made from, beside the scores."""
        prompts = [
            {"number": k, "text": one.prompt.text, "answers": list(one.prompt.answers or self.job.question.answers),
             "kind": one.prompt.kind, "origin": one.prompt.origin, "round": one.round, "by": one.by,
             "score": None if np.isnan(score) else float(score),
             "accuracy": None if np.isnan(score) else float(score + penalty), "asked_in_full": bool(self.standing.whole[k])}
            for k, (one, score, penalty) in enumerate(zip(self.candidates, self.standing.score, self.penalty, strict=True))
        ]  # fmt: skip
        evaluations = {
            "search": self.standing.evaluations, "full_search": self.standing.margin.size,
            "held_out": sum(map(len, self.judged.values())),
        }  # fmt: skip
        return {"prompts": prompts, "best": self.standing.best, "rounds": self.rounds, "dropped": self.dropped,
                "evaluations": evaluations, "stopped": self.stopped,
                "length_penalty": self.recipe.length_penalty}  # fmt: skip
