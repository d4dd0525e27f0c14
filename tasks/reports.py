"""Reports: every table a study predicted, made into one document, its figures and a page that opens offline."""

import base64
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recipes.schema import StudyRecipe
from tasks.cache import ROOT, cached, code_digest, task
from tasks.functional.cards import fill
from tasks.functional.plots import figures
from tasks.functional.report import Report as Document
from tasks.functional.report import build_report, publication_refusals
from tasks.run_page import show_picture, show_table
from tasks.store import Adapter, Predictions, Publication, Report, Splits, draft, read_json, sha256, write_json

CHILDREN = ("tasks.models.training", "tasks.models.pretraining", "tasks.detectors.audio_llm")
LIBRARIES = ("prefect", "datasets", "huggingface-hub", "torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate",
             "numpy", "pandas", "scipy", "scikit-learn", "librosa", "soundfile", "soxr", "pyarrow")  # fmt: skip


@task(
    task_run_name="report of {recipe.name}",
    **cached(
        libraries=("numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "jinja2"),
        files=("hub_cards/report.html.j2",),
    ),
)
def make_report(
    predictions: Sequence[Predictions],
    splits: Splits,
    data: Publication,
    adapters: Sequence[Adapter],
    bases: Sequence[Publication],
    recipe: StudyRecipe,
) -> Report:
    """report.json from one table of all predictions, and the page, figures and tables made from it alone."""
    table = pd.concat([pd.read_parquet(reference.path / "predictions.parquet") for reference in predictions])
    with draft(Report) as folder:
        table.to_parquet(folder / "predictions.parquet", index=False)
        recorded = record(splits, data, adapters, bases, recipe, sha256(folder / "predictions.parquet"))
        document = build_report(
            pd.read_parquet(folder / "predictions.parquet"), recorded=recorded, **recorded["provenance"]["settings"]
        )
        drawn = write_report(document, folder)
        headline = " ".join(document.verdict_lines[:1])
        report = Report.of(folder, headline=headline, publishable=not publication_refusals(document))
    show_table(
        "evaluation", evaluation_rows(document), f"Evaluation of {recipe.name} over {document.n.groups} test groups"
    )
    for name, png in drawn.items():
        show_picture(f"figure-{name}", png, name.replace("_", " "))
    return report


def record(
    splits: Splits,
    data: Publication,
    adapters: Sequence[Adapter],
    bases: Sequence[Publication],
    recipe: StudyRecipe,
    predictions_sha256: str,
) -> dict[str, Any]:
    """What a report takes over from other stages: not derived from predictions, so recorded with its evidence."""
    dumped = recipe.model_dump(mode="json", by_alias=True)
    first = [adapter for adapter in adapters if adapter.seed == recipe.train.seeds[0]]
    training = read_json(first[0].path / "training.json")
    base, _, revision = first[0].base.rpartition("@")
    return {
        "leakage": read_json(splits.path / "audit.json"),
        "balance": read_json(splits.path / "balance.json"),
        "adapter": {
            "parameters": training["parameters"],
            "bytes": (first[0].path / "adapter_model.safetensors").stat().st_size,
            "sha256": {f"fold {adapter.fold}": sha256(adapter.path / "adapter_model.safetensors") for adapter in first},
        },
        "gate": {
            "asked": recipe.train.gate.accuracy,
            "on_fail": recipe.train.gate.on_fail,
            "train_accuracy": {f"seed {a.seed}, fold {a.fold}": a.train_accuracy for a in adapters},
            "passed": all(a.train_accuracy >= recipe.train.gate.accuracy for a in adapters),
        },
        "looks": None,
        "provenance": {
            "repo": f"{recipe.publish.namespace}/{recipe.publish.adapter}",
            "study": recipe.name,
            "recipe_sha256": digest(dumped),
            "dataset": {"repo": data.repo, "sha": data.sha, "licence": recipe.dataset.licence},
            "base": {"repo": base, "revision": revision},
            "bases": [{"repo": published.repo, "sha": published.sha} for published in bases],
            "adapter": {"fingerprint": first[0].fingerprint, "seed": first[0].seed},
            "licence": recipe.publish.licence,
            "prompt": recipe.prompt,
            "classes": list(recipe.classes),
            "answers": list(recipe.answers),
            "protocol": recipe.dataset.splits.protocol,
            "seeds": list(recipe.train.seeds),
            "folds": splits.folds,
            "quantization": recipe.train.quantization,
            "lora": recipe.train.lora,
            "scope": recipe.train.scope,
            "loss_on": recipe.train.loss_on,
            "dtype": training["dtype"],
            "device": training["device"],
            "code": code_digest(("flows.run_study", *CHILDREN)),
            "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "predictions_sha256": predictions_sha256,
            "settings": {
                "classes": list(recipe.classes),
                "detector": "adapter",
                "seed": recipe.train.seeds[0],
                "threshold": recipe.evaluate.threshold,
                "n_boot": recipe.evaluate.n_boot,
                "bootstrap_seed": recipe.evaluate.seed,
            },
        },
    }  # fmt: skip


def digest(content: Any) -> str:
    """SHA-256 of a JSON value."""
    import hashlib

    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_report(document: Document, folder: Path) -> dict[str, bytes]:
    """report.json, its schema, figures/, tables/ and report.html; the figures it drew, by name."""
    write_json(folder / "report.json", document.model_dump(mode="json"))
    write_json(folder / "report.schema.json", Document.model_json_schema())
    (folder / "figures").mkdir()
    (folder / "tables").mkdir()
    drawn = figures(document)
    for name, png in drawn.items():
        (folder / "figures" / f"{name}.png").write_bytes(png)
    pd.DataFrame(evaluation_rows(document)).to_csv(folder / "tables" / "detectors.csv", index=False)
    template = (ROOT / "hub_cards" / "report.html.j2").read_text(encoding="utf-8")
    uris = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in drawn.items()}
    page = fill(template, {"report": document.model_dump(mode="json"), "figures": uris}, html=True)
    (folder / "report.html").write_text(page, encoding="utf-8")
    return drawn


def evaluation_rows(document: Document) -> list[dict[str, Any]]:
    """One row a detector: what the run's page, the terminal and tables/detectors.csv show."""
    rows = []
    others = sorted(name for name in document.detectors if name != document.detector)
    for name in (document.detector, *others):
        detector = document.detectors[name]
        row: dict[str, Any] = {"detector": name, "clips": detector.n.clips, "groups": detector.n.groups}
        for metric in ("balanced_accuracy", "roc_auc", "accuracy"):
            stated = detector.metrics[metric]
            row[metric] = None if stated.value is None else round(stated.value, 3)
            row[f"{metric}_ci95"] = "-" if stated.ci95 is None else f"{stated.ci95[0]:.3f} to {stated.ci95[1]:.3f}"
        rows.append(row)
    return rows


def summary(report: Report) -> str:
    """The short table a command ends with: the headline detector first, n in groups, intervals over groups."""
    document = Document.model_validate_json((report.path / "report.json").read_text(encoding="utf-8"))
    groups = ", ".join(f"{count.groups} {label} groups" for label, count in document.n.by_label.items())
    lines = [
        "",
        *document.verdict_lines,
        "",
        f"test: {groups}, {document.n.clips} clips; 95 % intervals over groups",
        "",
    ]
    lines.append(f"{'detector':<16}{'balanced accuracy':<30}{'AUC':<30}")
    for row in evaluation_rows(document):
        cells = [f"{row[name]} ({row[f'{name}_ci95']})" for name in ("balanced_accuracy", "roc_auc")]
        lines.append(f"{row['detector']:<16}{cells[0]:<30}{cells[1]:<30}")
    return "\n".join(lines)
