"""Reports: every table a study predicted, made into one document, its figures and a page that opens offline."""

import importlib.metadata
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from recipes.reading import recipe_digest
from recipes.schema import StudyRecipe
from tasks.audio_files import decode_flac
from tasks.cache import ROOT, cached, code_digest, task
from tasks.functional.audio import SAMPLE_RATE_HZ
from tasks.functional.card_evidence import AGAIN, measured_conditions
from tasks.functional.dataset_card import LICENCES, licences_of
from tasks.functional.listening import listening_section
from tasks.functional.plot_detectors import rests_on
from tasks.functional.plot_latency import accuracy_by_latency, latency_rows, timed_detectors
from tasks.functional.report import Report as Document
from tasks.functional.report import build_report, publication_refusals
from tasks.functional.report_files import Heard, clips_to_hear, report_files
from tasks.functional.report_tables import evaluation_notes, evaluation_rows, summary_lines
from tasks.functional.spectrograms import spectrogram_png
from tasks.functional.timing import BESIDE, timing_of
from tasks.pace import Paced
from tasks.run_page import say, show_picture, show_table
from tasks.store import (
    Adapter,
    Looks,
    Predictions,
    Publication,
    Report,
    Splits,
    draft,
    read_json,
    read_timing,
    sha256,
    timing_folder,
    write_json,
)

TEMPLATE = "hub_cards/report.html.j2"
ON_THE_PAGE = (
    r"(psychometric|accuracy_by|comparisons).*\.png$"  # figures that the run's page shows, the report has all
)
CHILDREN = ("tasks.models.training", "tasks.models.pretraining", "tasks.detectors.audio_llm")
LIBRARIES = ("prefect", "datasets", "huggingface-hub", "torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate",
             "numpy", "pandas", "scipy", "scikit-learn", "evaluate", "librosa", "soundfile", "soxr", "pyarrow")  # fmt: skip
COMPUTED_WITH = ("numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "evaluate", "matplotlib", "jinja2",
                 "librosa")  # fmt: skip


@task(
    task_run_name="report of {recipe.name}",
    **cached(
        libraries=COMPUTED_WITH,
        files=(TEMPLATE,),
    ),
)
def make_report(
    predictions: Sequence[Predictions],
    looks: Looks,
    splits: Splits,
    data: Publication,
    adapters: Sequence[Adapter],
    bases: Sequence[Publication],
    recipe: StudyRecipe,
) -> Report:
    """report.json from one table of all predictions, and the page, figures and tables made from it alone."""
    from tasks.point_metrics import point_metrics  # half a second that a cached report need not wait for

    table = pd.concat([pd.read_parquet(reference.path / "predictions.parquet") for reference in predictions])
    with draft(Report) as folder:
        table.to_parquet(folder / "predictions.parquet", index=False)
        base = named_base(adapters, bases, predictions, recipe.train.base)
        recorded = record(looks, splits, data, adapters, bases, base, recipe, sha256(folder / "predictions.parquet"))
        recorded["listening"] = heard_by(predictions)
        (folder / "evidence").mkdir()
        write_json(folder / "evidence" / "listening.json", recorded["listening"])
        document = build_report(
            pd.read_parquet(folder / "predictions.parquet"), recorded=recorded, point_metrics=point_metrics,
            say=Paced(say), **recorded["provenance"]["settings"],
        )  # fmt: skip
        files = report_files(document, (ROOT / TEMPLATE).read_text(encoding="utf-8"), hear(document, splits))
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        headline = " ".join(document.verdict_lines[:1])
        report = Report.of(folder, headline=headline, publishable=not publication_refusals(document))
    over = f"Evaluation of {recipe.name} over {document.n.groups} test groups"
    show_table("evaluation", evaluation_rows(document), ". ".join([over, *evaluation_notes(document)]))
    for name in (Path(file).stem for file in files if re.search(ON_THE_PAGE, file)):
        show_picture(f"figure-{name}", files[f"figures/{name}.png"], name.replace("_", " "))
    keep_times(report, document, predictions)
    return report


def hear(document: Document, splits: Splits) -> dict[str, Heard]:
    """Audio and spectrogram of the wrongly answered clips that the page plays."""
    if not (wanted := clips_to_hear(document)):
        return {}
    found = pq.read_table(splits.path / "data", columns=["clip_id", "audio"], filters=[("clip_id", "in", wanted)])
    flac = {row["clip_id"]: row["audio"]["bytes"] for row in found.to_pylist()}
    return {clip: Heard(flac[clip], spectrogram_png(decode_flac(flac[clip]), SAMPLE_RATE_HZ)) for clip in wanted}


def heard_by(predictions: Sequence[Predictions]) -> dict[str, Any]:
    """What the checks of listening found of every model, as a section of the report."""
    models = {}
    for reference in predictions:
        if (file := reference.path / "listening.json").is_file():
            row = pd.read_parquet(reference.path / "predictions.parquet", columns=["seed", "fold", "protocol"]).iloc[0]
            seed = "" if pd.isna(row["seed"]) else f", seed {row['seed']}"
            models[f"{reference.detector}{seed}, fold {row['fold']}, {row['protocol']}"] = read_json(file)
    return listening_section(models)


def keep_times(report: Report, document: Document, predictions: Sequence[Predictions]) -> None:
    """Write beside the report what one clip takes of each detector, of the first fold and seed that was timed: a table,
    timing.json and the figure of accuracy against latency."""
    measured: dict[str, dict[str, Any]] = {}
    for reference in predictions:
        if latency := read_timing(reference).get("latency"):
            measured.setdefault(reference.detector, latency)
    timing = {name: timing_of(its) for name, its in measured.items()}
    if not (timed := timed_detectors(document, timing)):
        return
    png = accuracy_by_latency(timed, f"{rests_on(document)}; {BESIDE}")
    rows = latency_rows(document, measured)
    files = {
        "timing.json": json.dumps({name: one._asdict() for name, one in timing.items()}, indent=1).encode(),
        "accuracy_by_latency.csv": pd.DataFrame(rows).to_csv(index=False).encode(),
        "accuracy_by_latency.png": png,
    }
    with draft(Report) as aside:  # swept where a kill leaves it
        for name, content in files.items():
            (aside / name).write_bytes(content)
        shutil.rmtree(timing_folder(report), ignore_errors=True)
        aside.rename(timing_folder(report))
    show_table("latency", rows, f"Balanced accuracy against ms a clip, one at a time, warm, {BESIDE}")
    show_picture("figure-accuracy-by-latency", png, "accuracy by latency")


def summary(report: Report) -> str:
    """The short table a command ends with: the headline detector first, n in groups, intervals over groups."""
    document = Document.model_validate_json((report.path / "report.json").read_text(encoding="utf-8"))
    return "\n".join(summary_lines(document))


# --- what is recorded --------------------------------------------------------------------------------------------


def record(
    looks: Looks,
    splits: Splits,
    data: Publication,
    adapters: Sequence[Adapter],
    bases: Sequence[Publication],
    base: tuple[str, str],
    recipe: StudyRecipe,
    predictions_sha256: str,
) -> dict[str, Any]:
    """What a report takes over from other stages: not derived from predictions, so recorded with its evidence."""
    first = [adapter for adapter in adapters if adapter.seed == recipe.train.seeds[0]]  # none of a study without seeds
    audit = read_json(splits.path / "audit.json")
    return {
        "leakage": audit,
        "shortcuts": audit.get("shortcuts"),  # a data set that was pulled may be older than they are
        "balance": read_json(splits.path / "balance.json"),
        "adapter": adapter_facts(first) | {"seeds": [seed_facts(adapter) for adapter in adapters]} if first else None,
        "gate": gate_facts(adapters, recipe) if first else None,
        "looks": looks.model_dump() | {"ledger": "kept in this home, append-only, not tamper-proof"},
        "provenance": {
            **asked(recipe, base),
            **parents(first, data, bases, base, recipe),
            "heard": heard(splits, recipe),
            **environment(first),
            "folds": splits.folds,
            "predictions_sha256": predictions_sha256,
            "settings": settings(recipe),
        },
    }


def adapter_facts(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Size and weights of the published adapter, one a fold."""
    training = read_json(adapters[0].path / "training.json")
    return {
        "parameters": training["parameters"],
        "bytes": adapters[0].weights.stat().st_size,
        "sha256": {f"fold {adapter.fold}": sha256(adapter.weights) for adapter in adapters},
    }


def seed_facts(adapter: Adapter) -> dict[str, Any]:
    """What became of one seed in one fold: weights, the last loss that was logged, answers on its own clips."""
    losses = [entry["loss"] for entry in read_json(adapter.path / "training.json")["history"] if "loss" in entry]
    return {
        "seed": adapter.seed,
        "fold": adapter.fold,
        "sha256": sha256(adapter.weights),
        "loss": losses[-1] if losses else None,
        "train_accuracy": adapter.train_accuracy,
    }


def gate_facts(adapters: Sequence[Adapter], recipe: StudyRecipe) -> dict[str, Any]:
    """What the gate asked of every adapter, and what each reached on its training clips."""
    gate = recipe.train.gate
    return {
        "asked": gate.accuracy,
        "on_fail": gate.on_fail,
        "train_accuracy": {f"seed {a.seed}, fold {a.fold}": a.train_accuracy for a in adapters},
        "passed": all(a.train_accuracy >= gate.accuracy for a in adapters),
    }


def asked(recipe: StudyRecipe, base: tuple[str, str]) -> dict[str, Any]:
    """The parts of the recipe a reader of the report looks for, and the digest of the whole as it is published."""
    whole = recipe_digest(recipe.in_public("@".join(base)))
    train = recipe.train
    return {
        "study": recipe.name, "recipe_sha256": whole,
        "prompt": recipe.asked.text, "trained_on_prompt": recipe.prompt, "classes": list(recipe.classes),
        "answers": list(recipe.asked.answers or recipe.answers),
        "protocol": recipe.dataset.splits.protocol, "seeds": list(train.seeds), "quantization": train.quantization,
        "lora": train.lora, "scope": train.scope, "loss_on": train.loss_on, "quick_look": recipe.evaluate.limit,
        "cells": [*recipe.ablation],
    }  # fmt: skip


def named_base(
    adapters: Sequence[Adapter], bases: Sequence[Publication], predictions: Sequence[Predictions], given: str
) -> tuple[str, str]:
    """What the base is called, never by a path of this machine, and its revision: as whatever loaded it wrote down.

    Raises ValueError where a folder held one base when adapters were trained and another when clips were answered.
    """
    over = {its.base for its in adapters} | {its.base for its in predictions if its.base}
    if given != "tiny" and len(over) > 1:  # each fold has a tiny one of its own
        raise ValueError(
            f"train.base: {given} has been altered between one task and another, which are over "
            f"{' and '.join(sorted(over))}; run again with --refresh train, over what lies there now"
        )
    if adapters:
        base, _, revision = adapters[0].base.rpartition("@")
        return base, revision
    if bases:
        return bases[0].repo, bases[0].sha
    if given == "tiny":  # a leaky one
        return "unpublished/tiny-base", ""
    base, _, revision = next(its.base for its in predictions if its.base).rpartition("@")
    return base, revision


def parents(
    adapters: Sequence[Adapter],
    data: Publication,
    bases: Sequence[Publication],
    base: tuple[str, str],
    recipe: StudyRecipe,
) -> dict[str, Any]:
    """Repositories and revisions that this one comes from, and its own name and licence."""
    its = {"fingerprint": adapters[0].fingerprint, "seed": adapters[0].seed} if adapters else None
    return {
        "repo": f"{recipe.publish.namespace}/{recipe.publish.adapter}",
        "licence": recipe.publish.licence,
        "dataset": {"repo": data.repo, "sha": data.sha, "licence": recipe.dataset.licence},
        "base": dict(zip(("repo", "revision"), base, strict=True)),
        "bases": [{"repo": published.repo, "sha": published.sha} for published in bases],
        "adapter": its,
    }


def heard(splits: Splits, recipe: StudyRecipe) -> dict[str, Any]:
    """What its clips are made of: sources, languages, licences, and the conditions of those on which it is judged."""
    columns = ["duration_ms", "snr_db", "band", "room", "context", *LICENCES.values()]
    judged = [*recipe.dataset.splits.parts] if splits.folds else ["test"]
    tables = {
        part: pq.read_table(splits.path / "data" / f"{part}.parquet", columns=columns).to_pandas()
        for part in splits.clips
    }
    return {
        "sources": [
            {
                "kind": source.kind,
                "role": source.role,
                "label": getattr(source, "label", None) if source.role == "content" else None,
            }
            for source in recipe.dataset.sources
        ],
        "languages": list(recipe.dataset.languages),
        "licences": licences_of(pd.concat(tables.values())),
        "conditions": measured_conditions(pd.concat(tables[part] for part in judged)),
    }


def environment(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Code and libraries, and where an adapter was trained."""
    return {
        **(trained_on(adapters[0]) if adapters else {}),
        "code": code_digest(("flows.run_study", *CHILDREN)),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def trained_on(adapter: Adapter) -> dict[str, Any]:
    """In which arithmetic and where an adapter was trained, and so how exactly it can be made again."""
    facts = read_json(adapter.path / "training.json")
    again = AGAIN["cpu" if facts["device"] == "cpu" else "gpu"]
    named = facts.get("base_class")  # an adapter that was pulled may be older than it is
    return {"dtype": facts["dtype"], "device": facts["device"], "base_class": named, "made_again": again}


def settings(recipe: StudyRecipe) -> dict[str, Any]:
    """Arguments of `build_report`: with them and predictions.parquet anyone builds the same report."""
    return {
        "classes": list(recipe.classes),
        "detector": recipe.models[0],
        "seed": recipe.train.seeds[0] if recipe.train.seeds else None,
        "threshold": recipe.evaluate.threshold,
        "n_boot": recipe.evaluate.n_boot,
        "bootstrap_seed": recipe.evaluate.seed,
        "goals": [goal.model_dump(mode="json", exclude_none=True) for goal in recipe.goals],
        "then": recipe.then,
        "otherwise": recipe.otherwise,
    }
