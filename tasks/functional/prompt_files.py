"""A search for a prompt as files: the document and its schema, a page that opens offline, figures, tables, recipes."""

from collections.abc import Mapping

import pandas as pd

from tasks.functional.cards import fill
from tasks.functional.plot_prompts import prompt_figures
from tasks.functional.prompt_report_schema import PromptReport
from tasks.functional.report_files import as_json, data_uri


def prompt_files(report: PromptReport, template: str, chosen: Mapping[str, bytes]) -> dict[str, bytes]:
    """Relative path -> content; the same report gives the same bytes. chosen: recipe files of the chosen prompts."""
    drawn, content = prompt_figures(report), report.model_dump(mode="json", by_alias=True)
    context = {"report": content, "figures": {name: data_uri("image/png", picture) for name, picture in drawn.items()}}
    return {
        "prompts.json": as_json(content),
        "prompts.schema.json": as_json(PromptReport.model_json_schema(by_alias=True)),
        "prompts.html": fill(template, context, html=True).encode(),
        **{f"figures/{name}.png": picture for name, picture in drawn.items()},
        **{f"tables/{name}.csv": table.to_csv(index=False).encode() for name, table in tables(report).items()},
        **chosen,
    }


def tables(report: PromptReport) -> dict[str, pd.DataFrame]:
    """Every prompt, every one dropped, and the styles, of all models."""
    models = report.models.items()
    prompts = [{"model": name, **row.model_dump(exclude={"style", "answers"}), "answers": " ".join(row.answers),
                "style": " ".join(row.style)} for name, its in models for row in its.prompts]  # fmt: skip
    dropped = [{"model": name, **row.model_dump()} for name, its in models for row in its.dropped]
    styles = [
        {"model": name, "trait": row.trait, "with": row.with_it, "without": row.without,
         "difference": row.difference.value, "low": (row.difference.ci95 or (None, None))[0],
         "high": (row.difference.ci95 or (None, None))[1], "reason": row.difference.reason}
        for name, its in models for row in its.styles
    ]  # fmt: skip
    return {"prompts": pd.DataFrame(prompts), "dropped": pd.DataFrame(dropped), "styles": pd.DataFrame(styles)}
