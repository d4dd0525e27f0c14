"""Several reports compared: read from files, folders or the hub, written as a table, figures and a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from tasks.functional.cards import fill
from tasks.functional.plots import figures_of_reports
from tasks.functional.report_document import Report
from tasks.functional.report_files import data_uri
from tasks.functional.report_series import series_lines, series_remarks, series_rows
from tasks.functional.timing import Timing
from tasks.hub import find
from tasks.store import read_json, write_folder

TEMPLATE = Path(__file__).resolve().parent.parent / "hub_cards" / "comparison.html.j2"
PAGE, TABLE = "comparison.html", "tables/reports.csv"
OURS = {PAGE, "figures", "tables"}


def compare_reports(names: Sequence[str], out: Path) -> list[str]:
    """Write table, figures and page of several reports into the folder `out`; return the table, line by line.

    names: report.json files, folders that hold one, or NAMESPACE/NAME[@sha] of the home's hub, in the order to show.
    Raises ValueError for fewer than two, one given twice, a file that is no report, and where `out` holds anything but
    an earlier comparison; FileNotFoundError where there is none.
    """
    need_place(out)
    if len(names) < 2:
        raise ValueError(f"{len(names)} report given: name at least two to compare")
    files = {name: file_of(name) for name in names}
    if len({file.resolve() for file in files.values()}) < len(names):
        raise ValueError("a report is named twice: name each once")
    labels = labelled(files)
    reports = {labels[name]: read_report(file) for name, file in files.items()}
    timing = {labels[name]: read_timing(times_beside(file)) for name, file in files.items()}
    rows, remarks = series_rows(reports, timing), series_remarks(reports)
    drawn = figures_of_reports(reports, timing)
    context = {
        "rows": rows,
        "remarks": remarks,
        "figures": {name: data_uri("image/png", png) for name, png in drawn.items()},
    }
    page = fill(TEMPLATE.read_text(encoding="utf-8"), context, html=True)
    figures = {f"figures/{name}.png": png for name, png in drawn.items()}
    write_folder({PAGE: page.encode(), TABLE: pd.DataFrame(rows).to_csv(index=False).encode(), **figures}, out)
    return [*series_lines(rows, remarks), "", f"comparison {out / PAGE}"]


def file_of(name: str) -> Path:
    """The report.json that a name stands for. Raises FileNotFoundError where there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    folder = path if path.is_dir() else find(name)[0]
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


def need_place(out: Path) -> None:
    """Raise ValueError unless `out` is new, an empty folder, or a comparison and nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder")
    there = {path.name for path in out.iterdir()}
    if there - OURS or (there and PAGE not in there):
        raise ValueError(f"--out {out} is not empty and holds no comparison of ours: give a new or empty folder")
