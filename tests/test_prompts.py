"""A search for a prompt: what it may be told, that garbage and kills cost nothing, and a whole one from the command line."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from flows import cli
from recipes.prompts import ChosenOn, PromptBlock, PromptRecipe, ProposerBlock, default_search
from recipes.schema import CheckFailed, load_study
from tasks import prompts
from tasks.audio_files import encode_flac
from tasks.functional import prompt_report
from tasks.functional.cards import fill
from tasks.functional.prompt_race import filled
from tasks.functional.prompt_report_schema import PromptReport
from tasks.functional.prompt_search import deal_roles
from tasks.functional.report_schema import Metric
from tasks.models.jobs import Question
from tasks.models.prompt_jobs import PromptJob
from tasks.store import PromptSearch, Splits
from tests.bench.bench_kills import ROOT, environment
from tests.commands import earshot

CLASSES = ("SPEECH", "NONSPEECH")
OWN = "Choose one: A) SPEECH (human voice) B) NONSPEECH (music/noise/silence/animals). Answer with A or B ONLY."
RULE = prompt_report.Rule(CLASSES, n_boot=100, seed=0)
BY_HAND = ["Is anyone speaking here? A) yes, a voice B) no voice", "A = contains voice, B = does not. A or B?"]


def study(*overrides: str):
    return load_study("study/smoke", overrides)


# --- recipes -----------------------------------------------------------------------------------------------------


def test_a_prompt_is_a_text_a_block_or_a_file(tmp_path):
    path = tmp_path / "winner.yaml"
    path.write_text(yaml.safe_dump({"text": "Voice? A) yes B) no", "answers": ["A", "B"], "origin": "a test"}))
    assert study("prompt=Voice? A) yes B) no").prompt == "Voice? A) yes B) no"
    assert study(f"prompt={path}").prompt == "Voice? A) yes B) no"
    assert study("prompt={text: 'Voice?', answers: [Yes, No], kind: open}").answers == ("Yes", "No")
    recipe = study(f"evaluate.prompt={path}")
    assert recipe.prompt == OWN, "what base and adapters are trained with stays"
    assert (recipe.asked.text, recipe.asked.answers) == ("Voice? A) yes B) no", ("A", "B"))
    assert study().asked.text == OWN


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.rounds=-1", "search.rounds: Input should be greater than or equal to 0, got -1"),
        ("search.proposer.model=Qwen/Qwen2.5-3B-Instruct", "neither a folder nor a Hub id with its revision"),
        ("search.prompts=[]", "search.prompts"),
        ("search.prompts=['A or B of these?', 'A or B of these?']", "stands there twice"),
        ("search.race={confidence: 1}", "confidence"),
        ("search=prompt/nothing", "no recipe 'prompt/nothing'"),
        ("evaluate.prompt=prompt/nothing", "no recipe 'prompt/nothing'"),
        ("prompt={text: 'a <|im_end|> b'}", "is no question"),
    ],
)
def test_a_wrong_search_is_a_sentence_before_anything_runs(override, said):
    with pytest.raises((ValueError, FileNotFoundError), match=r"(?s).*") as error:
        study("search=prompt/demo", override)
    assert said in str(error.value)


def test_prompts_that_may_not_be_asked_stop_the_search_before_it_begins():
    for text, why in (
        ("Is it a voice?", "leaves out the choices: 'A' and 'B' must stand in it"),
        ("A or B? The answer is A.", "tells the answer"),
    ):
        with pytest.raises(ValueError, match=why):
            prompts.search_of(study("search=prompt/demo", f"search.prompts=['{text}']"))
    recipe = study("search=prompt/demo", "search.prompts=[{text: 'Is it a voice?', kind: open, answers: [Yes, No]}]")
    assert prompts.search_of(recipe).prompts[0].kind == "open"
    with pytest.raises(ValueError, match="prompt: 'Is it a voice' leaves out the choices"):
        prompts.search_of(study("prompt=Is it a voice"))


def test_the_proposer_is_the_llm_where_it_is_at_hand_and_else_the_grammar(tmp_path):
    assert default_search().proposer.kind == "auto"
    assert prompts.settled(ProposerBlock(model=str(tmp_path))).kind == "grammar"
    assert prompts.settled(ProposerBlock()).kind == "grammar", "nothing of Qwen's is in the tests' cache"
    with pytest.raises(ValueError, match=r"holds no config\.json; give a model folder or a Hub id"):
        prompts.settled(ProposerBlock(kind="llm", model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    assert prompts.settled(ProposerBlock(model=str(tmp_path))).kind == "llm"


def test_a_prompt_is_never_tested_on_the_clips_that_chose_it():
    splits = Splits(fingerprint="0" * 16, clips={}, groups={}, verdict="clean", folds=3)
    chosen = PromptBlock(text=OWN, chosen_on=ChosenOn(splits="0" * 16, parts=("part1",)))
    prompts.check_untested(chosen, splits, ["part0"])
    prompts.check_untested(None, splits, ["part1"])
    with pytest.raises(CheckFailed, match="chosen on part1 of these very splits"):
        prompts.check_untested(chosen, splits, ["part1"])
    other = splits.model_copy(update={"fingerprint": "1" * 16})
    prompts.check_untested(chosen, other, ["part1"])


def test_the_recipe_of_a_chosen_prompt_reads_back_as_it_was_chosen(tmp_path):
    found = PromptSearch(fingerprint="a" * 16, model="base", prompt='Is "it": A) é or B) no?', answers=("A", "B"))
    path = tmp_path / "base.yaml"
    path.write_bytes(prompts.recipe_of(found, ChosenOn(splits="0" * 16, parts=("dev",))))
    block = study(f"evaluate.prompt={path}").evaluate.prompt
    assert (block.text, block.answers) == (found.prompt, found.answers)
    assert block.chosen_on == ChosenOn(splits="0" * 16, parts=("dev",))


def test_a_dry_run_says_what_would_be_asked_and_runs_nothing(home):
    asked = ["search=prompt/demo", "search.budget={evaluations: 500, minutes: 3}", "search.over=[adapter]"]
    result = CliRunner().invoke(
        cli.app, ["prompts", "study/smoke", "--dry-run", *(part for one in asked for part in ("--set", one))]
    )
    assert result.exit_code == 0, result.output
    assert "adapters      up to 1 to run" in result.output
    for line in (
        "prompt search demo, seed 0, of tiny on cpu", "then 2 rounds of 6 by the grammar of edits",
        "dev          some 100 clips choose, 50% of the groups judge; dealt when built",
        "answers      at most 31 prompts x some 100 a model; raced in 15 blocks, which asks fewer",
        "budget       500 answers and 3 minutes a model", "over adapter to search",
    ):  # fmt: skip
        assert line in result.output, result.output
    assert "over base" not in result.output
    assert not home.exists()


def test_once_the_data_set_is_built_a_dry_run_counts_clips_and_groups(home):
    splits = Splits(fingerprint="0" * 16, clips={}, groups={}, verdict="clean", folds=1)
    (folder := home / "store" / "splits" / splits.fingerprint / "data").mkdir(parents=True)
    file, dev = clips_of(folder)
    dev = dev.assign(supergroup_id=dev["group_id"], **dict.fromkeys(("snr_db", "band", "room", "family")))
    dev.to_parquet(file)
    recipe = study("search=prompt/demo", "search.race=null", "search.rounds=0")
    search = prompts.search_of(recipe)
    done = PromptSearch(fingerprint="a" * 16, model="base", prompt="A or B?", answers=("A", "B"))
    said = "\n".join(prompts.describe_search(recipe, search, splits, [done]))
    assert said.count("18 clips of 3 SPEECH and 3 NONSPEECH groups") == 2
    assert "at most 19 prompts x 18 clips = 342 a model, then 360 to judge; in full" in said
    assert "over base    kept: A or B?" in said
    assert "budget       none a model" in said
    dev[dev["label"] == "SPEECH"].to_parquet(file)
    with pytest.raises(ValueError, match="all 18 dev clips are of one class, none is NONSPEECH"):
        prompts.describe_search(recipe, search, splits, [])


# --- the search itself -------------------------------------------------------------------------------------------


def clips_of(folder: Path, groups: int = 12, each: int = 3) -> tuple[Path, pd.DataFrame]:
    """A dev part: tones against noise, 200 ms."""
    random, rows = np.random.default_rng(0), []
    for g in range(groups):
        for k in range(each):
            tone = np.sin(np.arange(3200) * (0.05 + 0.01 * g)) if g % 2 else random.standard_normal(3200)
            flac = encode_flac(0.15 * tone + 0.05 * random.standard_normal(3200))
            rows.append({"clip_id": f"{g}-{k}", "group_id": f"g{g}", "label": CLASSES[g % 2], "duration_ms": 200.0,
                         "audio": {"bytes": flac, "path": None}})  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_parquet(folder / "dev.parquet")
    return folder / "dev.parquet", table.drop(columns="audio")


def job_of(folder: Path, base: Path, blocks: int = 3, **changed) -> PromptJob:
    """A search over these clips by the tiny base."""
    folder.mkdir()
    file, dev = clips_of(folder)
    usual = {"rounds": 1, "prompts": BY_HAND, "proposer": ProposerBlock(kind="grammar")}
    recipe = PromptRecipe(name="test", clips=18, candidates=3, **{**usual, **changed})
    roles = deal_roles(dev, CLASSES, held_out=0.5, clips=18, blocks=blocks, seed=0)
    dev.assign(role=roles.role, block=roles.block).query("role != ''").to_parquet(folder / "clips.parquet")
    return PromptJob(
        question=Question(classes=CLASSES, answers=("A", "B"), prompt=OWN, longest_ms=200), device="cpu",
        output=str(folder), base=str(base), revision=None, quantization=None, adapter=None, base_revision="tiny",
        code="test", files=(str(file),), clips=str(folder / "clips.parquet"), reference=PromptBlock(text=OWN),
        recipe=recipe,
    )  # fmt: skip


class Table:
    """Stands where the audio LLM does: fixed log odds a prompt, and what was asked of it."""

    def __init__(self, job: PromptJob) -> None:
        self.job, self.rows, self.asked, self.recalled = job, pd.read_parquet(job.clips), 0, 0

    def question(self, prompt: PromptBlock) -> None:
        if prompt.answers not in (None, ("A", "B")):
            raise ValueError(f"the answer {prompt.answers[0]!r} is 3 tokens of this tokenizer")

    def margins(self, prompts, places):
        self.asked += len(prompts) * len(places)
        sign = np.where(self.rows["label"].to_numpy()[places] == "SPEECH", 1.0, -1.0)
        noise = [np.random.default_rng(len(prompt.text)).standard_normal(len(self.rows))[places] for prompt in prompts]
        return np.array([sign + 1.5 * its for its in noise])


class Helpful(Table):
    """The same, but the first prompt written by hand makes it hear everything."""

    def margins(self, prompts, places):
        sign = np.where(self.rows["label"].to_numpy()[places] == "SPEECH", 1.0, -1.0)
        helped = np.array([prompt.text == BY_HAND[0] for prompt in prompts])
        return np.where(helped[:, None], sign, super().margins(prompts, places))


def searched(job: PromptJob, table: type[Table] = Table):
    """A search that was run over the table."""
    from tasks.models.prompting import Search

    search = Search(job, table(job))
    search.run()
    return search


def test_a_search_ends_with_the_best_and_keeps_every_score(tmp_path, tiny_base, home):
    search = searched(job_of(tmp_path / "job", tiny_base))
    record, scores = search.record(), search.scores()
    assert [row["by"] for row in record["prompts"]] == ["hand"] * 3 + ["grammar"] * 3
    assert record["stopped"] == "all rounds done"
    whole = [row for row in record["prompts"] if row["asked_in_full"]]
    assert record["prompts"][record["best"]]["score"] == max(row["score"] for row in whole)
    assert record["evaluations"]["search"] == int((scores["clip_id"].isin(own_clips(search))).sum())
    assert record["evaluations"]["search"] <= record["evaluations"]["full_search"] == 6 * len(search.place)
    judged = scores[~scores["clip_id"].isin(own_clips(search))]
    assert {0, 1, 2, record["best"]} == set(judged["prompt"]), "the reference, the winner, and those by hand"
    assert judged.groupby("prompt").size().eq(len(search.judging)).all()
    assert not scores.duplicated(["prompt", "clip_id"]).any()


def own_clips(search) -> set[str]:
    return set(search.asker.rows["clip_id"].to_numpy()[search.place])


def test_a_budget_ends_a_search_with_the_best_so_far(tmp_path, tiny_base, home):
    search = searched(job_of(tmp_path / "job", tiny_base, budget={"evaluations": 30}))
    record = search.record()
    assert record["stopped"] == "the budget of 30 evaluations is spent"
    assert record["evaluations"]["search"] <= 30
    assert record["prompts"][record["best"]]["asked_in_full"]
    for budget, name in ({"evaluations": 5}, "5 evaluations"), ({"minutes": 1e-9}, "1e-09 minutes"):
        with pytest.raises(ValueError, match=f"the budget of {name} is spent before the study's own prompt was asked"):
            searched(job_of(tmp_path / name, tiny_base, budget=budget))


@pytest.mark.parametrize(
    ("race", "budget", "asked", "best"), [(None, 44, 36, 1), ({"blocks": 3}, 50, 48, 1), ({"blocks": 3}, 44, 42, 0)]
)
def test_a_budget_spent_within_a_round_loses_no_answer(tmp_path, tiny_base, home, race, budget, asked, best):
    search = searched(job_of(tmp_path / "job", tiny_base, race=race, budget={"evaluations": budget}), Helpful)
    record = search.record()
    assert record["stopped"] == f"the budget of {budget} evaluations is spent"
    assert record["evaluations"]["search"] == asked
    assert search.asker.asked == asked + record["evaluations"]["held_out"] == len(search.scores())
    assert record["rounds"][0]["evaluations"] == asked - len(search.place)
    assert record["best"] == best


def test_a_budget_spent_within_a_round_keeps_its_winner_and_is_reported(tmp_path, tiny_base, home):
    search = searched(job_of(tmp_path / "job", tiny_base, race=None, budget={"evaluations": 44}), Helpful)
    record = search.record()
    assert (record["best"], record["prompts"][1]["score"], record["rounds"][-1]["best"]) == (1, 1.0, 1)
    assert record["prompts"][2]["score"] is None, "was not asked of all"
    document = report_of(search)
    figures = dict.fromkeys(("progress", "length", "comparison_base", "two_by_two"), "")
    context = {"report": document.model_dump(mode="json", by_alias=True), "figures": figures}
    page = fill((prompts.ROOT / prompts.TEMPLATE).read_text(), context, html=True)
    assert page.index(f"<strong>{BY_HAND[0]}") < page.rindex(BY_HAND[1]), "what has no score comes last"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (None, ": better"),
        ("a t interval reaches further, from -0.010 to 0.220: unreliable", ": better"),  # as comparisons have it
        ("only 3 groups in NONSPEECH: unreliable", ": not shown to differ (only 3 groups in NONSPEECH: unreliable)"),
    ],
)
def test_an_interval_of_too_few_groups_shows_no_gain(reason, said):
    method = "bootstrap" if reason and reason.startswith("a t") else "t"
    gain = Metric(value=0.1, ci95=(0.02, 0.2), method=method, reason=reason)
    assert prompt_report.decided(gain) == said


def report_of(search) -> PromptReport:
    """The report of a search over the base, without test."""
    left = prompt_report.Searched(search.record() | {"listening": {}}, search.asker.rows, search.scores())
    return prompt_report.build_prompt_report("test", {"base": left}, {}, RULE, {"looks": {}, "provenance": {}})


def test_the_gain_is_of_accuracy_and_so_are_the_scores_that_a_proposer_sees(tmp_path, tiny_base, home):
    search = searched(job_of(tmp_path / "job", tiny_base, rounds=0, race=None, length_penalty=0.01), Helpful)
    own, best = search.record()["prompts"][:2]
    accuracy = own["score"] + 0.01 * len(OWN.split())
    assert best["score"] == pytest.approx(1 - 0.01 * len(BY_HAND[0].split()))
    gain = report_of(search).models["base"].gains.search
    assert gain == pytest.approx(1 - accuracy)
    assert gain != pytest.approx(best["score"] - own["score"]), "the penalties differ"
    rows = report_of(search).models["base"].prompts
    assert (rows[0].accuracy, rows[1].accuracy) == pytest.approx((accuracy, 1))
    assert (rows[0].score, rows[1].score) == pytest.approx((own["score"], best["score"]))
    history = {one.text: one.score for one in search.asked_of_llm(1, 0, 3).history}
    assert (history[OWN], history[BY_HAND[0]]) == pytest.approx((accuracy, 1))


def test_chance_is_reckoned_with_answers_and_not_with_probabilities_where_a_race_left_some_unasked(
    tmp_path, tiny_base, home, monkeypatch
):
    search = searched(job_of(tmp_path / "job", tiny_base, blocks=6, race={"blocks": 6}, budget={"evaluations": 48}))
    drawn = report_of(search).models["base"]
    assert any(0 < row.asked < len(search.place) for row in drawn.prompts), "some answers are missing"
    monkeypatch.setattr(
        prompt_report,
        "drawn_answers",
        lambda margin, clips, best, draws, seed: filled(margin, clips, best, seed)[None],
    )
    means = report_of(search).models["base"]
    assert drawn.gains.chance > means.gains.chance
    assert drawn.gains.search == means.gains.search
    assert drawn.styles != means.styles


def test_where_a_level_has_one_class_no_gain_is_stated():
    table = pd.DataFrame({"clip_id": [f"c{k}" for k in range(8)], "group_id": [f"g{k}" for k in range(8)],
                          "label": [*CLASSES] * 3 + ["SPEECH"] * 2, "prediction": "SPEECH", "prompt": OWN,
                          "snr_db": [0.0] * 6 + [10.0] * 2})  # fmt: skip
    tested = prompt_report.test_of(
        prompt_report.TestRows(table, table.assign(prompt=BY_HAND[0], prediction=table["label"])), RULE
    )
    alone = tested.by["snr_db"]["10"]
    assert (alone.gain.value, alone.gain.reason) == (None, "no clip is NONSPEECH")
    assert tested.by["snr_db"]["0"].gain.value == pytest.approx(0.5)
    kept = prompt_report.test_of(prompt_report.TestRows(table, table), RULE).gain
    assert (kept.value, kept.reason) == (0.0, "the study's own prompt was kept: there is no difference")


def test_answers_of_several_tokens_are_left_out_and_logged(tmp_path, tiny_base, home):
    odd = {"text": "Is it SPEECH or NON-SPEECH?", "kind": "labels", "answers": ["SPEECH", "NON"]}
    search = searched(job_of(tmp_path / "job", tiny_base, prompts=[*BY_HAND, odd, OWN]))
    reasons = {row["text"]: row["reason"] for row in search.dropped}
    assert "is 3 tokens" in reasons[odd["text"]]
    assert reasons[OWN] == "the study's own prompt, asked as such"


def tiny_llm(folder: Path, processor) -> Path:
    """A random Qwen2 with a real tokenizer and chat template: it says nothing of sense."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = processor.tokenizer
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_garbage_of_a_real_llm_is_logged_and_the_grammar_fills_the_round(
    tmp_path, tiny_base, processor, home, monkeypatch, capsys
):
    from tasks.models import proposals, proposing

    def here(job, file):
        file.write_text(job.model_dump_json())
        proposing.main(str(file))

    monkeypatch.setattr(proposals, "ask_child", here)
    llm = tiny_llm(tmp_path / "llm", processor)
    proposer = ProposerBlock(kind="llm", model=str(llm), attempts=2, tokens=12)
    search = searched(job_of(tmp_path / "job", tiny_base, proposer=proposer))
    record = search.record()
    said = capsys.readouterr().out
    assert "round 1: the proposer gave nothing usable of 3 in 2 calls; the grammar fills the round" in said
    assert [row["by"] for row in record["prompts"]].count("grammar") == 3
    garbage = [row for row in record["dropped"] if row["round"] == 1]
    assert garbage
    assert all(row["reason"] for row in garbage)
    assert len(list(proposals.folder().glob("[0-9a-f]*.json"))) == 2
    monkeypatch.setattr(proposals, "ask_child", None)  # asked the same again, the LLM is not even started
    again = searched(job_of(tmp_path / "again", tiny_base, proposer=proposer))
    assert again.record() == record


def test_what_an_llm_says_that_may_be_asked_is_asked(tmp_path, tiny_base, home, monkeypatch):
    from tasks.models import prompting

    told = []

    def said(asked):
        told.append(asked)
        refused = ["The answer is A or B. It is A.", BY_HAND[0]]
        return ["Voice? A) yes B) no", *refused, "Speech (A) or not (B)?", "A or B, which?"]

    monkeypatch.setattr(prompting, "llm_proposals", said)
    proposer = ProposerBlock(kind="llm", model=str(tmp_path))
    record = searched(job_of(tmp_path / "job", tiny_base, proposer=proposer)).record()
    assert [row["by"] for row in record["prompts"]].count("llm") == 3
    assert len(told) == 1
    assert {one.text for one in told[0].history} == {OWN, *BY_HAND}
    assert all(mistake.truth != mistake.answered for mistake in told[0].mistakes)


def test_a_search_with_nothing_new_left_ends_with_a_sentence(tmp_path, tiny_base, home, monkeypatch):
    from tasks.models import prompting

    monkeypatch.setattr(prompting, "propose", lambda *_: [OWN, "no"])
    assert searched(job_of(tmp_path / "job", tiny_base)).stopped == "round 1: no new prompt that may be asked"


@pytest.mark.slow
def test_an_llm_is_asked_in_a_process_of_its_own_and_one_that_cannot_be_loaded_is_named(tmp_path, processor, home):
    from tasks.models.proposals import Asked, answers_of

    llm = tiny_llm(tmp_path / "llm", processor)
    asked = Asked(ProposerBlock(kind="llm", model=str(llm), tokens=8), [], [], ("A", "B"), CLASSES, 60, 3, 0)
    said = answers_of(asked)
    assert len(said) == 3
    assert answers_of(asked) == said
    (llm / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the proposer failed: the proposer .* cannot be loaded"):
        answers_of(asked._replace(seed=1))


@pytest.mark.gpu
def test_on_a_gpu_the_llm_speaks_in_four_bits(tmp_path, processor, home):
    from tasks.models import proposing
    from tasks.models.prompt_jobs import ProposingJob

    job = ProposingJob(
        model=str(tiny_llm(tmp_path / "llm", processor)), revision=None, device="cuda", load_in_4bit=True,
        messages=[{"role": "user", "content": "Write."}], n=10, temperature=1.0, tokens=8, seed=0,
        output=str(tmp_path / "answers.json"),
    )  # fmt: skip
    assert proposing.load(job, "cuda").is_quantized
    (tmp_path / "job.json").write_text(job.model_dump_json())
    proposing.main(str(tmp_path / "job.json"))
    assert len(json.loads((tmp_path / "answers.json").read_text())) == 10


@pytest.mark.slow
def test_a_second_search_asks_the_model_nothing_and_finds_the_same(tmp_path, tiny_base, home, capsys):
    from tasks.models.prompting import main

    found = []
    for name in ("first", "second"):
        job = job_of(tmp_path / name, tiny_base)
        (tmp_path / f"{name}.json").write_text(job.model_dump_json())
        main(str(tmp_path / f"{name}.json"))
        found.append([(tmp_path / name / file).read_bytes() for file in ("search.json", "scores.parquet")])
        kept = "answers were kept from an earlier search" in capsys.readouterr().out
        assert kept == (name == "second")
    assert found[0] == found[1]
    count = json.loads(found[0][0])["evaluations"]
    assert len(answered(home)) == count["search"] + count["held_out"]


SEARCH = ("prompts", "study/smoke", "--set", "search=prompt/demo", "--set", "search.n_boot=200")


def answered(home: Path) -> list[tuple[str, str]]:
    """Every answer that a search was given, as (prompt's log, clip)."""
    logs = (home / "store" / "scores").glob("*.jsonl")
    lines = [(log.name, line.partition(b" ")[2]) for log in logs for line in log.read_bytes().splitlines()]
    return [(name, clip) for name, line in lines for clip in json.loads(line)["clips"]]


HELD = """
import sys, time
from tasks.models import prompting
from tasks.models.score_log import ScoreLog

add, said = ScoreLog.add, []

def tell(line, **how):
    said.append(line)
    print(line, **how)

def hold(*given):
    add(*given)
    if any(line.startswith(sys.argv[2]) for line in said):
        print("held", flush=True)
        time.sleep(600)

prompting.print, ScoreLog.add = tell, hold
prompting.main(sys.argv[1])
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_to_the_same_bytes_and_asks_nothing_twice(tmp_path, tiny_base):
    def start(name: str, *held: str) -> "subprocess.Popen[str]":
        """A search; `held` within the round after the line that begins so, behind the first answers that it keeps."""
        program = ("-c", HELD) if held else ("-m", "tasks.child", "tasks.models.prompting")
        return subprocess.Popen(
            [sys.executable, "-u", *program, str(tmp_path / f"{name}.json"), *held], cwd=ROOT, text=True,
            env=environment(tmp_path / f"home of {name}"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    for name in ("calm", "killed"):
        job = job_of(tmp_path / name, tiny_base, rounds=2)
        (tmp_path / f"{name}.json").write_text(job.model_dump_json())
    assert start("calm").communicate()[0].count("round ") == 3
    known = 0
    for line in ("round 0/2", "round 1/2"):
        search = start("killed", line)
        assert any(said == "held\n" for said in search.stdout), f"the search never came beyond {line!r}"
        search.kill()
        search.communicate()
        assert search.returncode == -signal.SIGKILL
        assert known < (known := len(answered(tmp_path / "home of killed"))), "answers are kept as they come"
        assert not (tmp_path / "killed" / "search.json").exists()
    assert f"{known} answers were kept from an earlier search and not asked again" in start("killed").communicate()[0]
    for file in ("search.json", "scores.parquet"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "calm" / file).read_bytes()
    asked = answered(tmp_path / "home of killed")
    assert known < len(asked) == len({*asked})
    assert sorted(asked) == sorted(answered(tmp_path / "home of calm"))


@pytest.mark.slow
def test_the_whole_demo_ends_with_gains_looks_and_a_prompt_that_evaluate_takes(tmp_path):
    home = tmp_path / "home"
    first = earshot(home, *SEARCH)
    assert first.code == 0, first.err[-3000:]
    assert "| INFO" not in first.err, "what Prefect logs goes to the run, not among our lines"
    (report,) = (home / "store" / "promptreport").glob("*[0-9a-f]")
    document = PromptReport.model_validate_json((report / "prompts.json").read_text())
    assert set(document.models) == set(document.test) == {"base", "adapter"}
    assert document.looks["count"] >= 2
    for its in document.models.values():
        assert its.evaluations.search < its.evaluations.full_search
        assert its.gains.chance >= 0
    assert {"progress.png", "length.png", "two_by_two.png", "comparison_base.png"} <= {
        path.name for path in (report / "figures").iterdir()
    }
    again = earshot(home, *SEARCH)
    assert "prompts of base, fold 0: cached" in again.err
    assert again.out == first.out
    taken = earshot(home, "plan", "study/smoke", "--set", f"evaluate.prompt={report / 'adapter.yaml'}")
    assert taken.code == 0, taken.err
    bad = earshot(home, "prompts", "study/smoke", "--set", "search.prompts=['Is it a voice?']")
    assert bad.code == 2
    assert "leaves out the choices" in bad.err
