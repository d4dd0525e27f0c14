"""Verification: what a published repository says, recomputed from what it holds, without a model."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
import yaml

from recipes.reading import recipe_digest
from tasks.audio_files import decode_flac
from tasks.cache import ROOT
from tasks.card_metadata import card_faults
from tasks.functional.card_evidence import measured_conditions
from tasks.functional.cards import render_base_card, render_dataset_card, render_model_card
from tasks.functional.dataset_card import counts_of
from tasks.functional.leakage import audit, pcm_hash
from tasks.functional.report import RECORDED, Report, build_report
from tasks.functional.report_tables import csv_tables
from tasks.hub import is_commit, locate
from tasks.pace import Paced
from tasks.repo_checks import check_adapter, check_folder, read_header
from tasks.rescoring import rescore
from tasks.store import file_digests, read_json, sha256

TOLERANCE = 1e-9
TEMPLATES = ROOT / "hub_cards"


class Finding(NamedTuple):
    """One thing compared: equal, different, or recorded with evidence that cannot be derived again from predictions."""

    verdict: Literal["equal", "differs", "recorded"]
    what: str


def verify_repo(name: str, rescore: int = 0, base: str | None = None) -> Iterator[Finding]:
    """Everything that can be compared in a folder or in `NAMESPACE/NAME[@sha]` of the home's hub or the Hub, as it comes.

    rescore: of an adapter, so many of the published clips are also asked again; base: a folder with the base they are
    asked on. Raises FileNotFoundError where there is no such repository or nothing in it was published by Earshot,
    ValueError where it may not be read or clips cannot be asked again here.
    """
    folder, sha = locate(name)
    found = next((verify(folder) for file, verify in KINDS.items() if (folder / file).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} holds neither {', '.join([*KINDS][:-1])} nor {[*KINDS][-1]}: nothing here was published by Earshot"
        )
    if base and not rescore:
        raise ValueError("--base is what clips are asked again on: give --rescore N with it")
    if rescore and not (folder / "report.json").is_file():
        raise ValueError(f"{name} is no adapter: there is nothing to score again")
    within = folder.parent.parent if sha else folder  # the Hub's cache links to blobs beside the snapshots
    altered = False
    for stage in (verify_files(folder, sha), verify_contents(folder, within), found):
        for finding in as_far_as_readable(stage):
            altered |= finding.verdict == "differs"
            yield finding
    again = verify_scores(folder, rescore, base) if rescore else iter(())
    yield from as_far_as_readable(again) if altered else again  # of what is whole, errors are this machine's


def as_far_as_readable(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings; where a file is missing or is not what it was, that is the last of them."""
    try:
        yield from findings
    except FileNotFoundError as error:
        yield Finding("differs", f"{error.filename or error}: is missing")
    except Exception as error:  # whatever a stranger's file makes of our own code
        yield Finding(
            "differs", f"what follows cannot be read: {type(error).__name__}, {' '.join(str(error).split())}"
        )


def verify_files(folder: Path, sha: str) -> Iterator[Finding]:
    """Every file against its hash in files.json, and all of them against the sha they are published under, "" for none."""
    listed = read_json(folder / "files.json")
    found = {name: digest for name, digest in file_digests(folder).items() if name != "files.json"}
    wrong = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
    yield judge(
        not wrong, f"files: {len(listed)} hashes of files.json" + (f"; altered: {', '.join(wrong)}" if wrong else "")
    )
    if sha:
        yield judge(is_commit(folder, sha), f"files: all of them together are {sha}")


def verify_contents(folder: Path, within: Path) -> Iterator[Finding]:
    """That nothing leads out of `within` or runs code, that headers of weights fit their files, and the card's head."""
    check_folder(folder, within, folder.name)
    yield Finding("equal", "files: names, links, configurations and headers of weights are sound")
    kind = "dataset" if (folder / "card.json").is_file() else "model"
    faults = card_faults((folder / "README.md").read_text(encoding="utf-8"), kind)
    yield judge(not faults, "README.md: its head is what the Hub reads" + "".join(f"; {fault}" for fault in faults))


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
            say=Paced(), **provenance["settings"],
        )  # fmt: skip
    except ValueError as error:
        yield Finding("differs", f"report.json: cannot be rebuilt, {error}")
        return
    derived = rebuilt.model_dump(mode="json")
    for key in derived:
        if key not in RECORDED:
            where = differences(stated.get(key), derived[key], key)
            yield judge(not where, f"report.json: {key}" + (f"; {where[0]}" if where else ""))
    yield from verify_tables(folder, Report.model_validate(stated))
    yield from verify_evidence(folder, stated)
    yield from verify_adapters(folder, stated)
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


def verify_tables(folder: Path, report: Report) -> Iterator[Finding]:
    """The tables and the schema that lie beside a report, made again."""
    schema = json.loads(json.dumps(Report.model_json_schema()))
    same = without_words(read_json(folder / "report.schema.json")) == without_words(schema)
    yield judge(same, "report.schema.json: the schema of report.json")
    there = {
        file.stem: rows_of(file.read_text(encoding="utf-8")) for file in sorted((folder / "tables").glob("*.csv"))
    }
    made = {name: rows_of(table.to_csv(index=False)) for name, table in csv_tables(report).items()}
    wrong = sorted(name for name in there.keys() | made.keys() if there.get(name) != made.get(name))
    yield judge(not wrong, f"tables: {len(made)} made again" + (f"; another: {', '.join(wrong)}" if wrong else ""))


def without_words(schema: Any) -> Any:
    """A schema without its descriptions: docstrings make no report anew, so an older one has the words of its day."""
    if isinstance(schema, dict):
        return {
            key: without_words(its) for key, its in schema.items() if key != "description" or isinstance(its, dict)
        }
    return [without_words(each) for each in schema] if isinstance(schema, list) else schema


def rows_of(table: str) -> list[list[tuple[str, str]]]:
    """Every row by the names of its columns, whatever the order of both: a report read from its file has lost it."""
    return sorted(sorted(row.items()) for row in csv.DictReader(io.StringIO(table)))


def verify_evidence(folder: Path, stated: dict[str, Any]) -> Iterator[Finding]:
    """Recorded sections against the evidence files they were taken from."""
    names = {"leakage": "audit", "balance": "balance", "listening": "listening"}
    evidence = {key: f"evidence/{name}.json" for key, name in names.items()}
    for key, name in evidence.items():
        same = stated[key] == read_json(folder / name)
        what = f"report.json: {key}, from {name} (sha256 {sha256(folder / name)[:12]})"
        yield Finding("recorded" if same else "differs", what)
    same = stated["shortcuts"] == read_json(folder / evidence["leakage"]).get("shortcuts")
    yield Finding("recorded" if same else "differs", f"report.json: shortcuts, from {evidence['leakage']}")
    training = read_json(folder / "training.json")
    same = stated["adapter"]["parameters"] == training["parameters"]
    yield Finding("recorded" if same else "differs", "report.json: adapter.parameters, from training.json")
    heard = measured_conditions(test_rows(folder))
    yield judge(
        stated["provenance"]["heard"]["conditions"] == heard, "report.json: conditions, those of the test clips"
    )
    rest = sorted(key for key in RECORDED if key not in {*evidence, "shortcuts", "adapter"} and stated[key])
    yield Finding("recorded", f"report.json: {', '.join(rest)}, as the run wrote them")
    timing = sha256(folder / "evidence" / "timing.json")
    yield Finding(
        "recorded", f"times, from evidence/timing.json (sha256 {timing[:12]}); figures and report.html, as drawn"
    )


def test_rows(folder: Path) -> pd.DataFrame:
    """The test clips of the published predictions."""
    table = pd.read_parquet(folder / "predictions.parquet")
    return table[table["split"] == "test"]


def verify_adapters(folder: Path, stated: dict[str, Any]) -> Iterator[Finding]:
    """Weights and configuration of every fold's adapter against the report and the recipe."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    origin = stated["provenance"]
    same = recipe_digest(recipe) == origin["recipe_sha256"]
    yield judge(same, "recipe.yaml: the recipe the report names")
    bases = [f"{one['repo']}@{one['sha']}" for one in origin["bases"]]
    for number, (fold, digest) in enumerate(stated["adapter"]["sha256"].items()):
        place = folder / fold.replace(" ", "-") if number else folder
        at = "" if place == folder else f"{place.name}/"
        weights = sha256(place / "adapter_model.safetensors")
        yield judge(weights == digest, f"{at}adapter_model.safetensors: the weights the report names")
        base = bases[number] if bases else f"{origin['base']['repo']}@{origin['base']['revision']}"
        try:
            check_adapter(place, base)
            fault = ""
        except ValueError as error:
            fault = f"; it {error}"
        yield judge(not fault, f"{at}adapter_config.json: an adapter of {base}, as its weights are{fault}")
        config = read_json(place / "adapter_config.json")
        other = [key for key, value in (recipe["train"]["lora"] or {}).items() if not as_asked(config.get(key), value)]
        yield judge(
            not other, f"{at}adapter_config.json: as recipe.yaml has it" + "".join(f"; another {k}" for k in other)
        )


def as_asked(given: Any, asked: Any) -> bool:
    """Whether peft wrote down what the recipe asked for; it keeps names of modules without order."""
    if isinstance(given, list) and isinstance(asked, list):
        return sorted(map(str, given)) == sorted(map(str, asked))
    return bool(given == asked)


def verify_scores(folder: Path, n: int, base: str | None) -> Iterator[Finding]:
    """Published clips asked again of the published weights on this machine.

    Raises ValueError or FileNotFoundError where this machine cannot: that says nothing of what was published.
    """
    done = rescore(folder, n, base)
    clips = f"{done.clips}" if done.clips == done.asked else f"only {done.clips} of {done.asked}"
    false = f"; {done.false_flips} clips are not as rounding could leave them" if done.false_flips else ""
    yield judge(
        done.equal,
        f"predictions.parquet: {clips} clips scored again {done.how}; P moved by at most {done.farthest:.2g} "
        f"(allowed {done.tolerance:g}), {done.flips} other answers{false}",
    )


def verify_base(folder: Path) -> Iterator[Finding]:
    """The weights of a tiny base counted from their header, its card rendered again."""
    facts = read_json(folder / "base.json")
    numbers = sum(math.prod(tensor.shape) for tensor in read_header(folder / "model.safetensors").values())
    yield judge(numbers == facts["parameters"], f"model.safetensors: {numbers:,} parameters, from its header")
    card = render_base_card((TEMPLATES / "base_card.md.j2").read_text(encoding="utf-8"), facts)
    yield judge(card == (folder / "README.md").read_text(encoding="utf-8"), "README.md: rendered again from base.json")


def verify_dataset(folder: Path) -> Iterator[Finding]:
    """Every clip's audio against its hash, the audit run again, everything counted again, the card rendered again."""
    facts, recipe = read_json(folder / "card.json"), read_json(folder / "recipe.json")
    columns = [name for name in pq.read_schema(folder / facts["parts"][0]["file"]).names if name != "audio"]
    tables = [pq.read_table(folder / part["file"], columns=columns).to_pandas() for part in facts["parts"]]
    clips = pd.concat(tables, ignore_index=True)
    say = Paced()
    wrong = [clip for part in facts["parts"] for clip in with_other_audio(folder / part["file"], say)]
    yield judge(
        not wrong, f"data: audio of {len(clips)} clips, by its hash" + (f"; another: {wrong[0]}" if wrong else "")
    )
    found, record = audit(clips), read_json(folder / "audit.json")
    same = found.verdict == record["verdict"] and found.rows.to_dict("records") == record["checks"]
    yield judge(same, f"audit.json: {found.verdict}, audited again over {len(clips)} clips")
    for name in ("audit", "balance"):
        yield judge(facts[name] == read_json(folder / f"{name}.json"), f"card.json: {name}, that of {name}.json")
    counted = json.loads(json.dumps(counts_of(clips, facts["classes"], recipe["clips"]["design"])))
    where = [at for key, value in counted.items() for at in differences(facts.get(key), value, key)]
    yield judge(
        not where, "card.json: clips, groups, levels and licences, counted again" + (f"; {where[0]}" if where else "")
    )
    asked = {"clips_recipe": "clips", "splits_recipe": "splits"} | {
        name: name for name in ("description", "licence", "languages")
    }
    other = [key for key, name in asked.items() if facts[key] != recipe[name]]
    yield judge(
        not other, "card.json: what was asked for, as recipe.json has it" + "".join(f"; another {k}" for k in other)
    )
    yield Finding(
        "recorded",
        "audit.json: content and shortcuts; card.json: hygiene, sources and fingerprint, as the run wrote them",
    )
    card = render_dataset_card((TEMPLATES / "dataset_card.md.j2").read_text(encoding="utf-8"), facts)
    yield judge(card == (folder / "README.md").read_text(encoding="utf-8"), "README.md: rendered again from card.json")


def with_other_audio(file: Path, say: Callable[[str], None]) -> Iterator[str]:
    """Clips whose audio does not have the hash of their row. say: takes lines on how far it has come."""
    parquet, done = pq.ParquetFile(file), 0
    for batch in parquet.iter_batches(256, columns=["clip_id", "pcm_hash", "audio"]):
        for row in batch.to_pylist():
            if pcm_hash(decode_flac(row["audio"]["bytes"])) != row["pcm_hash"]:
                yield row["clip_id"]
        done += len(batch)
        say(f"{file.name}: {done:,}/{parquet.metadata.num_rows:,} clips heard")


KINDS = {
    "report.json": verify_report,
    "card.json": verify_dataset,
    "base.json": verify_base,
}  # what makes it one -> how


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
