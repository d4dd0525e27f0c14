"""A report as files: the document and its schema, figures, tables, and one page that opens offline."""

import base64
import functools
import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tasks.functional.card_tables import MEANING, by_supergroup, likeness, mark
from tasks.functional.cards import fill
from tasks.functional.content_audit import describe_comparison
from tasks.functional.levels import fit_doubts, stated_end, stated_level
from tasks.functional.plots import figures
from tasks.functional.report_document import Report
from tasks.functional.report_tables import csv_tables
from tasks.functional.shortcuts import state_measured
from tasks.functional.timing import Timing

PAGE_BYTES = 5_000_000
MOST_HEARD = 60
FRAME_BYTES = 400  # of a clip's row without audio and picture


class Heard(NamedTuple):
    """A clip for the page: FLAC bytes as they are kept, and a PNG of its spectrogram."""

    flac: bytes
    picture: bytes


def clips_to_hear(report: Report) -> list[str]:
    """Ids of the wrongly answered clips a page plays where their audio is at hand: missed and false alarms in turn."""
    lists = ([one.clip_id for one in listed] for listed in (report.errors.missed, report.errors.false_alarms))
    turns = itertools.chain.from_iterable(itertools.zip_longest(*lists))
    return list(dict.fromkeys(clip for clip in turns if clip is not None))[:MOST_HEARD]


def report_files(
    report: Report,
    template: str,
    heard: Mapping[str, Heard] | None = None,
    timing: Mapping[str, Timing] | None = None,
) -> dict[str, bytes]:
    """Relative path -> content of everything a report consists of; the same report, clips and times give the same bytes.

    template: report.html's. heard: clip_id -> audio and picture; what fits into a page of 5 MB is played on it.
    timing: of the detectors that were timed, in a file and a figure of their own.
    """
    drawn = figures(report, timing)
    html = page(report, template, drawn, heard or {})
    measured = {"timing.json": as_json({name: one._asdict() for name, one in timing.items()})} if timing else {}
    return {
        **measured,
        "report.json": as_json(report.model_dump(mode="json")),
        "report.schema.json": _schema(),
        "report.html": html.encode(),
        **{f"figures/{name}.png": png for name, png in drawn.items()},
        **{f"tables/{name}.csv": table.to_csv(index=False).encode() for name, table in csv_tables(report).items()},
    }


@functools.cache
def _schema() -> bytes:
    """What report.json may hold, the same for every report."""
    return as_json(Report.model_json_schema())


def as_json(content: Any) -> bytes:
    """Sorted, indented, newline at the end: the same content is the same bytes."""
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def page(report: Report, template: str, drawn: Mapping[str, bytes], heard: Mapping[str, Heard]) -> str:
    """report.html, with as many of the clips as 5 MB hold."""
    context = {
        "report": report.model_dump(mode="json"),
        "figures": {name: data_uri("image/png", png) for name, png in drawn.items()},
        "heard": {},
        "stated_level": stated_level,
        "stated_end": stated_end,
        "fit_doubts": fit_doubts,
        "describe_comparison": describe_comparison,
        "state_measured": state_measured,
        "mark": mark,
        "likeness": likeness,
        "by_supergroup": by_supergroup,
        "meaning": MEANING,
    }
    silent = fill(template, context, html=True)
    if not heard:
        return silent
    played = _within(heard, clips_to_hear(report), PAGE_BYTES - len(silent.encode()))
    return fill(template, {**context, "heard": played}, html=True)


def _within(heard: Mapping[str, Heard], order: list[str], room: int) -> dict[str, dict[str, str]]:
    """The first of the clips whose data URIs together take no more than `room` bytes."""
    played = {}
    for clip in order:
        if clip not in heard:
            continue
        uris = {
            "audio": data_uri("audio/flac", heard[clip].flac),
            "picture": data_uri("image/png", heard[clip].picture),
        }
        room -= sum(map(len, uris.values())) + FRAME_BYTES
        if room < 0:
            break
        played[clip] = uris
    return played


def data_uri(kind: str, content: bytes) -> str:
    """Content as a page holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
