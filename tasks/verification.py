"""Verification: what a published repository says, recomputed from what it holds, without a model."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from tasks.cache import ROOT
from tasks.functional.cards import render_dataset_card, render_model_card
from tasks.functional.leakage import audit
from tasks.functional.report import RECORDED, Report, build_report
from tasks.hub import find, is_commit
from tasks.store import file_digests, read_json, sha256

TOLERANCE = 1e-9
TEMPLATES = ROOT / "hub_cards"


class Finding(NamedTuple):
    """One thing compared: equal, different, or recorded with evidence that cannot be derived again from predictions."""

    verdict: Literal["equal", "differs", "recorded"]
    what: str


def verify_repo(name: str) -> list[Finding]:
    """Everything that can be compared in a folder or in `NAMESPACE/NAME[@sha]` of the home's hub or the Hub.

    Raises FileNotFoundError where there is no such repository or it holds neither a report nor a data set.
    """
    folder, sha = (Path(name), None) if Path(name).is_dir() else find(name)
    if (folder / "report.json").is_file():
        found = verify_report(folder)
    elif (folder / "card.json").is_file():
        found = verify_dataset(folder)
    else:
        raise FileNotFoundError(
            f"{folder} holds neither report.json nor card.json: nothing here was published by Earshot"
        )
    return [*as_far_as_readable(verify_files(folder, sha)), *as_far_as_readable(found)]


def as_far_as_readable(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings; where a file is missing or is not what it was, that is the last of them."""
    try:
        yield from findings
    except FileNotFoundError as error:
        yield Finding("differs", f"{error.filename or error}: is missing")
    except (OSError, LookupError, TypeError, ValueError) as error:
        yield Finding("differs", f"what follows cannot be read: {type(error).__name__}, {error}")


def verify_files(folder: Path, sha: str | None) -> Iterator[Finding]:
    """Every file against its hash in files.json, and all of them against the sha they are published under."""
    listed = read_json(folder / "files.json")
    found = {name: digest for name, digest in file_digests(folder).items() if name != "files.json"}
    wrong = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
    yield judge(
        not wrong, f"files: {len(listed)} hashes of files.json" + (f"; altered: {', '.join(wrong)}" if wrong else "")
    )
    if sha:
        yield judge(is_commit(folder, sha), f"files: all of them together are {sha}")


def verify_report(folder: Path) -> Iterator[Finding]:
    """The report rebuilt from predictions.parquet, the card rendered again from the report."""
    from tasks.point_metrics import point_metrics  # data sets are verified without

    stated = read_json(folder / "report.json")
    provenance = stated["provenance"]
    same_table = sha256(folder / "predictions.parquet") == provenance["predictions_sha256"]
    yield judge(same_table, "predictions.parquet: the table the report names")
    recorded = {key: stated[key] for key in RECORDED}
    try:
        rebuilt = build_report(
            pd.read_parquet(folder / "predictions.parquet"), recorded=recorded, point_metrics=point_metrics,
            **provenance["settings"],
        )  # fmt: skip
    except ValueError as error:
        yield Finding("differs", f"report.json: cannot be rebuilt, {error}")
        return
    derived = rebuilt.model_dump(mode="json")
    for key in derived:
        if key not in RECORDED:
            where = differences(stated.get(key), derived[key], key)
            yield judge(not where, f"report.json: {key}" + (f"; {where[0]}" if where else ""))
    yield from verify_evidence(folder, stated)
    template = (TEMPLATES / "model_card.md.j2").read_text(encoding="utf-8")
    try:
        timing = read_json(folder / "evidence" / "timing.json")
        card = render_model_card(template, Report.model_validate(stated), timing)
    except ValueError as error:
        yield Finding("differs", f"README.md: {error}")
        return
    yield judge(
        card == (folder / "README.md").read_text(encoding="utf-8"), "README.md: rendered again from report.json"
    )


def verify_evidence(folder: Path, stated: dict[str, Any]) -> Iterator[Finding]:
    """Recorded sections against the evidence files they were taken from."""
    names = {"leakage": "audit", "balance": "balance", "listening": "listening"}
    evidence = {key: f"evidence/{name}.json" for key, name in names.items()}
    for key, name in evidence.items():
        same = stated[key] == read_json(folder / name)
        what = f"report.json: {key}, from {name} (sha256 {sha256(folder / name)[:12]})"
        yield Finding("recorded" if same else "differs", what)
    training = read_json(folder / "training.json")
    same = stated["adapter"]["parameters"] == training["parameters"]
    yield Finding("recorded" if same else "differs", "report.json: adapter.parameters, from training.json")
    weights = sha256(folder / "adapter_model.safetensors")
    yield judge(
        weights in stated["adapter"]["sha256"].values(), "adapter_model.safetensors: the weights the report names"
    )
    rest = sorted(key for key in RECORDED if key not in evidence and key != "adapter" and stated[key])
    yield Finding("recorded", f"report.json: {', '.join(rest)}, as the run wrote them")


def verify_dataset(folder: Path) -> Iterator[Finding]:
    """The audit run again over the parquets, the card rendered again from card.json."""
    facts = read_json(folder / "card.json")
    columns = [name for name in pq.read_schema(folder / facts["parts"][0]["file"]).names if name != "audio"]
    tables = [pq.read_table(folder / part["file"], columns=columns).to_pandas() for part in facts["parts"]]
    clips = pd.concat(tables, ignore_index=True)
    found = audit(clips)
    same = found.verdict == facts["audit"]["verdict"] and found.rows.to_dict("records") == facts["audit"]["checks"]
    yield judge(same, f"audit.json: {found.verdict}, audited again over {len(clips)} clips")
    template = (TEMPLATES / "dataset_card.md.j2").read_text(encoding="utf-8")
    card = render_dataset_card(template, facts)
    yield judge(card == (folder / "README.md").read_text(encoding="utf-8"), "README.md: rendered again from card.json")


def judge(same: bool, what: str) -> Finding:
    """Equal or different."""
    return Finding("equal" if same else "differs", what)


def differences(stated: Any, derived: Any, path: str) -> list[str]:
    """Where two JSON values differ; numbers within 1e-9 are equal."""
    if isinstance(stated, dict) and isinstance(derived, dict):
        found = [f"{path}.{key} is missing on one side" for key in sorted(stated.keys() ^ derived.keys())]
        return found + [
            d
            for key in sorted(stated.keys() & derived.keys())
            for d in differences(stated[key], derived[key], f"{path}.{key}")
        ]
    if isinstance(stated, list) and isinstance(derived, list) and len(stated) == len(derived):
        return [
            d for i, (a, b) in enumerate(zip(stated, derived, strict=True)) for d in differences(a, b, f"{path}[{i}]")
        ]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (stated, derived))
    if numbers and math.isclose(stated, derived, rel_tol=0, abs_tol=TOLERANCE):
        return []
    same = stated == derived and isinstance(stated, bool) == isinstance(derived, bool)  # to Python, true is 1
    return [] if same else [f"{path}: stated {stated!r}, recomputed {derived!r}"]
