"""Prompts: searched for on dev by a child process, judged on other dev groups, and told of in a report of their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import yaml

from recipes.prompts import ChosenOn, PromptBlock, PromptRecipe, ProposerBlock, default_search
from recipes.schema import CheckFailed, StudyRecipe
from recipes.training import TrainMethod
from tasks.cache import ROOT, cached, code_digest, task
from tasks.functional.prompt_files import prompt_files
from tasks.functional.prompt_report import Rule, Searched, TestRows, build_prompt_report, summary_lines
from tasks.functional.prompt_report_schema import PromptReport as Document
from tasks.functional.prompt_search import HELD_OUT, SEARCH, deal_roles
from tasks.functional.prompt_text import Wording, refusal
from tasks.models.base_content import content_of_base, model_sha
from tasks.models.jobs import Question, base_at
from tasks.models.prompt_jobs import PromptJob
from tasks.progress import Bar
from tasks.run_page import fenced, say, show_markdown, show_picture, show_table
from tasks.store import (
    Adapter,
    Base,
    Looks,
    Predictions,
    PromptReport,
    PromptSearch,
    Publication,
    Splits,
    draft,
    read_json,
    write_timing,
)

TEMPLATE = "hub_cards/prompts.html.j2"
CHILD = "tasks.models.prompting"
FACTORS = ("duration_ms", "snr_db", "band", "room", "family")
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "numpy", "pandas")


# --- before anything runs ----------------------------------------------------------------------------------------


def search_of(recipe: StudyRecipe) -> PromptRecipe:
    """The study's search with its proposer settled: `auto` is the LLM where its files are here, else the grammar.

    Raises ValueError naming a prompt that may not be asked, and where an LLM is demanded that is not here.
    """
    search = recipe.search or default_search()
    if search.race and search.clips < 2 * search.race.blocks:
        raise ValueError(
            f"search.clips={search.clips} is too few for {search.race.blocks} blocks of both classes: give at least "
            f"{2 * search.race.blocks}, or fewer search.race.blocks"
        )
    own = PromptBlock(text=recipe.prompt, answers=recipe.answers)
    for prompt in (own, *search.prompts):
        wording = Wording(prompt.text, prompt.answers or recipe.answers)
        if prompt.kind != "open" and (why := refusal(wording, recipe.classes, max(search.most_words, 60))):
            raise ValueError(
                f"the prompt {prompt.text!r} {why}; mend it, or give `kind: open` and `answers: [Yes, No]` to one that "
                "names no choices"
            )
    return search.model_copy(update={"proposer": settled(search.proposer)})


def settled(proposer: ProposerBlock) -> ProposerBlock:
    """The proposer that will be asked. Raises ValueError where `kind: llm` names a folder that holds none."""
    if proposer.kind == "grammar":
        return proposer
    here = at_hand(proposer.model)
    if proposer.kind == "auto":
        say(
            f"proposer: {proposer.model}" if here
            else f"proposer: {proposer.model} is not on this machine, the grammar of edits proposes instead"
        )  # fmt: skip
        return proposer.model_copy(update={"kind": "llm" if here else "grammar"})
    if not here and "@" not in proposer.model:
        raise ValueError(
            f"search.proposer.model: {proposer.model} holds no config.json; give a model folder or a Hub id"
        )
    return proposer


def at_hand(model: str) -> bool:
    """Whether a model's files lie on this machine: a folder, or a revision in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if "@" not in model:
        return (Path(model).expanduser() / "config.json").is_file()
    repo, _, revision = model.partition("@")
    return isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str)


def check_untested(prompt: PromptBlock | None, splits: Splits, tested: Sequence[str]) -> None:
    """Raise CheckFailed where a prompt was chosen on clips that it would be tested on."""
    chosen = prompt.chosen_on if prompt else None
    if chosen and chosen.splits == splits.fingerprint and (both := sorted({*chosen.parts} & {*tested})):
        raise CheckFailed(
            f"evaluate.prompt was chosen on {both[0]} of these very splits, which is tested as well: its score there would "
            "be that of the search. Test it on other splits, or in a study without folds"
        )


def describe_search(
    recipe: StudyRecipe, search: PromptRecipe, splits: Splits | None, done: Sequence[PromptSearch]
) -> list[str]:
    """What a settled search will ask, of whom, on which clips and how often at most, line by line.

    splits: None where they are not built yet. done: searches over these very models that are kept. Raises ValueError as
    `deal_dev` does.
    """
    by_hand, new = 1 + len(search.prompts), search.rounds * search.candidates
    proposer = search.proposer.model if search.proposer.kind == "llm" else "the grammar of edits"
    asked = f"some {search.clips}"
    dev, judged = (
        [f"  dev          {asked} clips choose, {search.held_out:.0%} of the groups judge; dealt when built"],
        "",
    )
    if splits:
        clips = deal_dev(dev_files(splits, recipe.dataset.splits.sides(0)), recipe.classes, search)
        own, held = (clips[clips["role"] == role] for role in (SEARCH, HELD_OUT))
        dev = [f"  dev          {counted(own, recipe)} choose", f"               {counted(held, recipe)} judge"]
        asked, judged = f"{len(own):,}", f", then {(by_hand + 1) * len(held):,} to judge"
        asked += f" clips = {(by_hand + new) * len(own):,}"
    how = "in full" if search.race is None else f"raced in {search.race.blocks} blocks, which asks fewer"
    bounds = [f"{search.budget.evaluations:,} answers"] if search.budget.evaluations else []
    bounds += [f"{search.budget.minutes:g} minutes"] if search.budget.minutes else []
    kept = {its.model: f"kept: {its.prompt}" for its in done}
    return [
        f"prompt search {search.name}, seed {search.seed}, of {recipe.train.base} on {recipe.train.device}",
        f"  candidates   the study's own prompt, {by_hand - 1} by hand (less those with answers of more than one token),",
        f"               then {search.rounds} rounds of {search.candidates} by {proposer}",
        *dev,
        f"  answers      at most {by_hand + new} prompts x {asked} a model{judged}; {how}",
        f"  budget       {' and '.join(bounds) or 'none'} a model, at most {search.timeout_min:g} minutes of a process",
        *(f"  {f'over {name}':<13}{kept.get(name, 'to search')}" for name in search.over),
        "  test         is read by no search; the own prompt and the chosen one are then asked of it, and looks counted",
    ]


def counted(rows: pd.DataFrame, recipe: StudyRecipe) -> str:
    """Clips, and groups of each class."""
    groups = [f"{rows.loc[rows['label'] == name, 'group_id'].nunique()} {name}" for name in recipe.classes]
    return f"{len(rows):,} clips of {' and '.join(groups)} groups"


def content_of_models(arguments: Mapping[str, Any]) -> str:
    """What a search hears with, and what it asks for prompts, where these are folders."""
    proposer = Path(arguments["search"].proposer.model).expanduser()
    proposes = arguments["search"].proposer.kind == "llm" and proposer.is_dir()
    return content_of_base(arguments) + (model_sha(proposer) if proposes else "")


# --- search ------------------------------------------------------------------------------------------------------


@task(
    task_run_name="prompts of {name}, fold {fold}",
    **cached(libraries=LIBRARIES, runs=(CHILD, "tasks.models.proposing"), reads=content_of_models),
)
def search_prompt(
    name: str,
    splits: Splits,
    sides: Mapping[str, str],
    method: TrainMethod,
    question: Question,
    tiny: Base | None,
    published: Publication | None,
    adapter: Adapter | None,
    fold: int,
    search: PromptRecipe,
    timeout_min: float,
) -> PromptSearch:
    """The best prompt for a model on some groups of dev, and what it is worth on the others; test is never read.

    Raises ValueError where dev has no clips, one class, or too few groups for both.
    """
    files = dev_files(splits, sides)
    at = base_at(method.base, tiny, published)
    with draft(PromptSearch) as folder:
        clips = deal_dev(files, question.classes, search)
        clips.to_parquet(folder / "clips.parquet", index=False)
        job = PromptJob(
            base=at.load, revision=at.revision, quantization=method.quantization, question=question, device=method.device,
            output=str(folder), adapter=str(adapter.path) if adapter else None,
            base_revision=at.public_revision, code=code_digest(("tasks.detectors.audio_llm",)), files=tuple(map(str, files)),
            clips=str(folder / "clips.parquet"), recipe=search,
            reference=PromptBlock(text=question.prompt, answers=question.answers, origin="the study's own prompt"),
        )  # fmt: skip
        bar = Bar(f"prompts-{name}-{fold}", f"Searching a prompt for {name}, fold {fold}")
        seconds = job.run(CHILD, what=f"the search over {name}", on_line=bar, timeout_min=timeout_min)
        record = read_json(folder / "search.json")
        best = record["prompts"][record["best"]]
        a, b = best["answers"]
        found = PromptSearch.of(folder, model=name, prompt=best["text"], answers=(a, b))
    write_timing(found, {"search_s": seconds})
    return found


def dev_files(splits: Splits, sides: Mapping[str, str]) -> list[Path]:
    """The parquet files of the parts on the dev side."""
    return [splits.path / "data" / f"{part}.parquet" for part, side in sides.items() if side == "dev"]


def deal_dev(files: Sequence[Path], classes: tuple[str, str], search: PromptRecipe) -> pd.DataFrame:
    """The dev clips that choose and those that judge, with role and block. Raises ValueError as `deal_roles` does."""
    columns = ["clip_id", "group_id", "supergroup_id", "label", *FACTORS]
    dev = pd.concat(
        [pq.read_table(file, columns=columns).to_pandas() for file in files] or [pd.DataFrame(columns=columns)],
        ignore_index=True,
    )
    blocks = search.race.blocks if search.race else 1
    roles = deal_roles(dev, classes, held_out=search.held_out, clips=search.clips, blocks=blocks, seed=search.seed)
    dealt = dev.assign(role=roles.role, block=roles.block)
    return dealt[dealt["role"] != ""].reset_index(drop=True)


# --- report ------------------------------------------------------------------------------------------------------


@task(
    task_run_name="prompt report of {recipe.name}",
    **cached(libraries=("numpy", "pandas", "scipy", "matplotlib", "jinja2"), files=(TEMPLATE,)),
)
def make_prompt_report(
    searches: Sequence[PromptSearch],
    predictions: Sequence[Predictions],
    looks: Looks,
    splits: Splits,
    fold: int,
    search: PromptRecipe,
    recipe: StudyRecipe,
) -> PromptReport:
    """prompts.json, its page, figures and tables, and each chosen prompt as a recipe that `evaluate.prompt` takes.

    predictions: of each searched model, asked the study's own prompt, then the chosen one.
    """
    rule = Rule(recipe.classes, search.n_boot, search.seed)
    searched = {its.model: left_by(its) for its in searches}
    tests = {
        its.model: test_rows(predictions[2 * k], predictions[2 * k + 1], splits) for k, its in enumerate(searches)
    }
    recorded = {
        "looks": looks.model_dump() | {"ledger": "kept in this home, append-only, not tamper-proof"},
        "provenance": provenance(splits, fold, search),
    }
    document = build_prompt_report(recipe.name, searched, tests, rule, recorded)
    chosen = chosen_prompts(searches, splits, fold, recipe)
    files = prompt_files(document, (ROOT / TEMPLATE).read_text(encoding="utf-8"), chosen)
    with draft(PromptReport) as folder:
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        report = PromptReport.of(folder, models=tuple(searched))
    show_table("prompts", [one.model_dump(mode="json") for its in document.models.values() for one in its.compared],
               f"Prompts of {recipe.name} on dev clips that took no part in the search")  # fmt: skip
    show_markdown("prompts-result", fenced(summary_lines(document)), f"The prompt search of {recipe.name}")
    for path in files:
        if path.endswith(".png"):
            show_picture(f"prompts-{Path(path).stem}", files[path], Path(path).stem.replace("_", " "))
    return report


def left_by(search: PromptSearch) -> Searched:
    """What a search has left."""
    clips, scores = (pd.read_parquet(search.path / f"{name}.parquet") for name in ("clips", "scores"))
    return Searched(read_json(search.path / "search.json"), clips, scores)


def test_rows(by_hand: Predictions, searched: Predictions, splits: Splits) -> TestRows:
    """The generated answers to the test clips under both prompts."""
    tables = [pd.read_parquet(its.path / "predictions.parquet") for its in (by_hand, searched)]
    mine, other = (table[(table["split"] == "test") & (table["method"] == "generate")] for table in tables)
    return TestRows(mine.reset_index(drop=True), other.reset_index(drop=True))


def provenance(splits: Splits, fold: int, search: PromptRecipe) -> dict[str, Any]:
    """Which clips, which recipe, which code."""
    return {
        "splits": splits.fingerprint, "fold": fold, "folds": splits.folds, "search": search.model_dump(mode="json"),
        "code": code_digest((CHILD, "tasks.prompts")),
    }  # fmt: skip


def chosen_prompts(
    searches: Sequence[PromptSearch], splits: Splits, fold: int, recipe: StudyRecipe
) -> dict[str, bytes]:
    """MODEL.yaml: the prompt each search chose, as a recipe with the clips that chose it."""
    dev = tuple(part for part, side in recipe.dataset.splits.sides(fold).items() if side == "dev")
    return {f"{its.model}.yaml": recipe_of(its, ChosenOn(splits=splits.fingerprint, parts=dev)) for its in searches}


def recipe_of(search: PromptSearch, chosen_on: ChosenOn) -> bytes:
    """One prompt as a recipe file."""
    block = PromptBlock(
        name=f"searched-{search.model}", text=search.prompt, answers=search.answers,
        origin=f"chosen by search {search.fingerprint} over the {search.model}", chosen_on=chosen_on,
    )  # fmt: skip
    head = (
        f"# The prompt that a search over the {search.model} chose, on the dev clips of chosen_on; what it is worth\n"
        "# stands beside it in prompts.json. Use: earshot evaluate STUDY --set evaluate.prompt=THIS_FILE\n"
    )
    content = yaml.safe_dump(block.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return (head + content).encode()


def prompt_summary(report: PromptReport) -> list[str]:
    """What the command ends with."""
    document = Document.model_validate_json((report.path / "prompts.json").read_text(encoding="utf-8"))
    files = [f"prompt     {report.path / f'{model}.yaml'}" for model in report.models]
    return [*summary_lines(document), "", f"report     {report.path / 'prompts.html'}", *files]
