"""Published reports -> one comparison, on the page of a run: what `earshot compare` does, for deployments."""

from pathlib import Path

from prefect import flow

from tasks.report_series import compare_reports
from tasks.run_page import fenced, show_markdown


@flow(name="compare detectors", flow_run_name="compare to {out}")
def compare_detectors(reports: list[str], out: str) -> list[str]:
    """Compare reports, in the order to show: report.json files, folders with one, or NAMESPACE/NAME[@sha] of the hub.

    Table, figures and a page go to the folder `out`. Raises ValueError or FileNotFoundError where a report is none.
    """
    lines = compare_reports(reports, Path(out).expanduser())
    show_markdown("comparison", fenced(lines), f"Comparison of {', '.join(reports)}")
    return lines
