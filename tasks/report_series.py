"""Several reports compared, or the detectors of published adapters: read, written as tables, figures and a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow as pa
from pydantic import ValidationError

from recipes.leaderboard import LeaderboardRecipe
from tasks.functional.cards import fill
from tasks.functional.leaderboard import Pair, leaderboard_remarks, pair_lines, pair_rows, paired, ranked, told_apart
from tasks.functional.plot_leaderboard import leaderboard
from tasks.functional.plots import figures_of_reports
from tasks.functional.predictions import (
    choose_detector,
    decide,
    headline_protocol,
    headline_rows,
    validate_predictions,
)
from tasks.functional.report import build_report
from tasks.functional.report_document import Report
from tasks.functional.report_files import data_uri
from tasks.functional.report_metrics import Rule
from tasks.functional.report_series import decided_at, series_lines, series_remarks, series_rows
from tasks.functional.timing import Timing
from tasks.hub import locate
from tasks.store import home, need_place, read_json, write_folder

TEMPLATE = Path(__file__).resolve().parent.parent / "hub_cards" / "comparison.html.j2"
PAGE, TABLE = "comparison.html", "tables/reports.csv"
OURS = {PAGE, "figures", "tables"}


def compare_reports(names: Sequence[str], out: Path) -> list[str]:
    """Write table, figures and page of several reports into the folder `out`; return the table, line by line.

    names: report.json files, folders that hold one, or NAMESPACE/NAME[@sha] of the home's hub, in the order to show.
    Raises ValueError for fewer than two, one given twice, a file that is no report, and where `out` holds anything but
    an earlier comparison; FileNotFoundError where there is none.
    """
    need_place(out, "comparison", OURS, is_comparison)
    if len(names) < 2:
        raise ValueError(f"{len(names)} report given: name at least two to compare")
    files = {name: file_of(name) for name in names}
    if len({file.resolve() for file in files.values()}) < len(names):
        raise ValueError("a report is named twice: name each once")
    labels = labelled(files)
    reports = {labels[name]: read_report(file) for name, file in files.items()}
    timing = {labels[name]: read_timing(times_beside(file)) for name, file in files.items()}
    rows, remarks = series_rows(reports, timing), series_remarks(reports)
    heading = f"{len(rows)} reports, in the order given"
    write_page(heading, rows, remarks, figures_of_reports(reports, timing), out)
    return [*series_lines(rows, remarks), "", f"comparison {out / PAGE}"]


def write_page(
    heading: str,
    rows: Sequence[Mapping[str, Any]],
    remarks: Sequence[str],
    drawn: Mapping[str, bytes],
    out: Path,
    pairs: Sequence[Pair] = (),
) -> None:
    """The page with its tables and figures into the folder `out`, whole or not at all."""
    context = {
        "heading": heading, "rows": rows, "remarks": remarks, "pairs": {(its.first, its.second): its for its in pairs},
        "figures": {name: data_uri("image/png", png) for name, png in drawn.items()}, "told_apart": told_apart,
    }  # fmt: skip
    page = fill(TEMPLATE.read_text(encoding="utf-8"), context, html=True)
    files = {PAGE: page.encode(), TABLE: pd.DataFrame(rows).to_csv(index=False).encode()}
    if pairs:
        files["tables/pairs.csv"] = pd.DataFrame(pair_rows(pairs)).to_csv(index=False).encode()
    write_folder({**files, **{f"figures/{name}.png": png for name, png in drawn.items()}}, out)


# --- a leaderboard -----------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One place on a leaderboard: what its report says of it, its answers to the test clips, what it takes."""

    report: Report
    rows: pd.DataFrame
    timing: dict[str, Timing]


def make_leaderboard(recipe: LeaderboardRecipe, out: Path | None = None) -> list[str]:
    """Write the leaderboard of a recipe into the folder `out`, by default one of the home; return it, line by line.

    Raises FileNotFoundError where something named was not published, ValueError where the test clips are not the same.
    """
    out = out or home() / "comparisons" / recipe.name
    need_place(out, "comparison", OURS, is_comparison)
    entries = entries_of(recipe)
    reports = ranked({name: entry.report for name, entry in entries.items()})
    rule = Rule(next(iter(reports.values())).classes, recipe.n_boot, recipe.seed)
    pairs = paired({name: entries[name].rows for name in reports}, rule)
    timing = {name: entries[name].timing for name in reports}
    rows = series_rows(reports, timing)
    remarks = leaderboard_remarks(reports, pairs)
    drawn = {"leaderboard": leaderboard(reports, pairs), **figures_of_reports(reports, timing)}
    del drawn["evolution"]  # detectors are no steps from one to the next
    if len(recipe.adapters) < 2:
        drawn.pop("accuracy_by_size", None)
    write_page(f"{len(rows)} detectors on the same test clips", rows, remarks, drawn, out, pairs)
    return [*series_lines(rows, remarks), "", *pair_lines(pairs), "", f"leaderboard {out / PAGE}"]


def describe_leaderboard(recipe: LeaderboardRecipe) -> list[str]:
    """What a leaderboard would compare, line by line; nothing is computed."""
    entries = entries_of(recipe)
    first = next(iter(entries.values())).report
    return [
        f"{recipe.name}: {len(entries)} detectors in {len(entries) * (len(entries) - 1) // 2} pairs on the "
        f"{first.n.clips:,} test clips {first.test} of {first.n.groups} groups; nothing was compared",
        *(f"  {name}, decided at {decided_at(entry.report.threshold)}" for name, entry in entries.items()),
    ]


def entries_of(recipe: LeaderboardRecipe) -> dict[str, Entry]:
    """Name -> everything a recipe names, each on the test clips of the first adapter. Raises ValueError otherwise."""
    files = {name: file_of(name) for name in recipe.adapters}
    folders, label = {name: file.parent for name, file in files.items()}, labelled(files)
    reports = {name: read_report(folder / "report.json") for name, folder in folders.items()}
    found = {label[name]: entry_of(reports[name], folders[name], reports[name].detector) for name in folders}
    refuse_alike([*found, *recipe.detectors, *(Path(file).stem for file in recipe.tables)])
    for detector in recipe.detectors:
        of = next(
            (name for name, one in reports.items() if detector in one.detectors and detector != one.detector), None
        )
        if of is None:
            there = sorted({name for one in reports.values() for name in one.detectors} - {"adapter"})
            raise ValueError(
                f"detectors: {detector!r} was scored with none of the adapters; there are {', '.join(there)}"
            )
        found[detector] = entry_of(reports[of], folders[of], detector)
    first_name, first = next(iter(found.items()))
    for file in map(Path, recipe.tables):
        found[file.stem] = entry_of_table(file.expanduser(), first.report, recipe)
    for name, entry in found.items():
        if (entry.report.test, entry.report.classes) != (first.report.test, first.report.classes):
            raise ValueError(
                f"{name} was judged on other test clips ({entry.report.test}) than {first_name} ({first.report.test}): "
                "between sets a difference is one of clips; score both on one data set"
            )
    return found


def refuse_alike(names: Sequence[str]) -> None:
    """Raise ValueError where two places of a leaderboard would have one name, for one of them would be left out."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"two of what the leaderboard compares would be called {twice[0]!r}: a table is called by its file's name, an "
            "adapter by its folder's or repository's; rename the file or the folder"
        )


def entry_of(report: Report, folder: Path, detector: str) -> Entry:
    """One detector of a published repository."""
    table = validate_predictions(pd.read_parquet(folder / "predictions.parquet"), report.classes)
    rows = headline_rows(table, detector, report.seed, report.protocol or "")
    its = report.detectors[detector]
    own: dict[str, Any] = {} if detector == report.detector else {"adapter": None, "beats": {}}
    told = report.model_copy(
        update={
            "detector": detector, "n": its.n, "threshold": its.threshold, "metrics": its.metrics,
            "psychometric": its.psychometric, **own,
        }
    )  # fmt: skip
    file = folder / "evidence" / "timing.json"
    latency = read_json(file)["latency"] if file.is_file() else {}
    return Entry(
        told, decide(rows, report.classes, threshold_of(report)).rows, {k: Timing(**v) for k, v in latency.items()}
    )


def entry_of_table(file: Path, first: Report, recipe: LeaderboardRecipe) -> Entry:
    """The detector of a predictions table that somebody else made, decided as the first adapter was; one that gives no
    p_speech stays at its own answers.

    Raises ValueError or FileNotFoundError naming the file, where the threshold is of dev for want of such rows as well.
    """
    if not file.is_file():
        raise FileNotFoundError(f"tables: there is no file {file}")
    try:
        table = validate_predictions(pd.read_parquet(file), first.classes)
        detector = choose_detector(table.assign(detector=table["detector"].replace("", file.stem)), None)
        table["detector"] = table["detector"].replace("", detector)
        rows = headline_rows(table, detector, None, headline_protocol(table, detector))
        scored = rows.loc[rows["split"] == "test", "p_speech"].notna().any()
        threshold = threshold_of(first) if scored else "fixed"
        decided = decide(rows, first.classes, threshold)
        if decided.chosen_on != threshold and not decided.flags:
            raise ValueError(
                "the first adapter is decided at a threshold from its dev clips, and this table has no dev rows of both "
                "classes with p_speech in every fold to choose its own on: add them"
            )
        report = build_report(
            table, classes=first.classes, detector=detector, seed=None, n_boot=recipe.n_boot, threshold=threshold
        )
    except (ValueError, pa.ArrowInvalid) as error:
        raise ValueError(f"{file}: {error}") from error
    return Entry(report, decided.rows, {})


def threshold_of(report: Report) -> Literal["fixed", "dev"]:
    """By which rule the answers of a report were decided."""
    settings = (report.provenance or {}).get("settings") or {}
    return "dev" if settings.get("threshold") == "dev" else "fixed"


# --- reports in --------------------------------------------------------------------------------------------------


def file_of(name: str) -> Path:
    """The report.json that a name stands for. Raises FileNotFoundError where there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    folder, _ = locate(name)
    if not (folder / "report.json").is_file():
        raise FileNotFoundError(f"{name}: there is no report.json in {folder}")
    return folder / "report.json"


def labelled(files: Mapping[str, Path]) -> dict[str, str]:
    """A short name for each: its folder's, or that of its repository; the whole name where two would be alike."""
    short = {
        name: file.parent.name if Path(name).expanduser().exists() else name.split("@")[0]
        for name, file in files.items()
    }
    return {name: its if list(short.values()).count(its) == 1 else name for name, its in short.items()}


def read_report(file: Path) -> Report:
    """A report. Raises ValueError naming the file where it is none of this version's."""
    try:
        return Report.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{file} is no report of this version ({where}: {first['msg']}): make it anew from its predictions"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no report: {error}") from error


def times_beside(file: Path) -> Path:
    """Where the times of a report lie: beside it in its folder, or in the store beside the folder."""
    own = file.with_name("timing.json")
    return own if own.exists() else file.parent.with_name(f"{file.parent.name}.timing") / own.name


def read_timing(file: Path) -> dict[str, Timing]:
    """The timing beside a report; empty where nothing was timed. Raises ValueError where the file is no timing."""
    if not file.exists():
        return {}
    try:
        return {name: Timing(**one) for name, one in read_json(file).items()}
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is no timing of ours: {error}") from error


def is_comparison(folder: Path) -> bool:
    """Whether a folder holds the page of a comparison."""
    return (folder / PAGE).is_file()
