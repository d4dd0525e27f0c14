"""Which detectors of a report a figure draws, each in one style throughout, and what its caption says of n."""

from collections.abc import Sequence
from typing import NamedTuple

from tasks.functional.plot_canvas import STYLES, Style
from tasks.functional.report_document import Report
from tasks.functional.report_schema import Metric


class Shown(NamedTuple):
    """Detectors that one figure draws, each with its style, the headline first; `left_out` are those it does not."""

    styles: dict[str, Style]
    left_out: list[str]

    def only(self, names: Sequence[str]) -> "Shown":
        """Those of `names` alone, drawn as before."""
        return Shown({name: style for name, style in self.styles.items() if name in names}, self.left_out)

    @property
    def remark(self) -> str:
        """What the caption says of those that are not drawn."""
        return f"not drawn: {', '.join(self.left_out)}" if self.left_out else ""


def shown(report: Report) -> Shown:
    """The headline and the best of the others, as many as there are styles; a detector has one style in all figures.

    One that answers every clip alike is at chance by construction, and left out.
    """

    def place(name: str) -> tuple[bool, float, str]:
        value = report.detectors[name].metrics["balanced_accuracy"].value
        return name != report.detector, -1.0 if value is None else -value, name

    names = sorted(report.detectors, key=place)
    deaf = [name for name in names[1:] if len(_answers(report, name)) == 1]
    drawn = [name for name in names if name not in deaf][: len(STYLES)]
    styles = dict(zip(drawn, STYLES, strict=False))
    return Shown(styles, [name for name in names if name not in styles])


def _answers(report: Report, name: str) -> set[str]:
    confusion = report.detectors[name].confusion
    return {answer for answers in confusion.values() for answer, clips in answers.items() if clips}


def rests_on(report: Report) -> str:
    """n, in groups before clips."""
    by_class = " + ".join(f"{report.n.by_label[name].groups} {name}" for name in report.classes)
    return f"n = {report.n.groups} groups ({by_class}), {report.n.clips:,} clips"


def stated(metric: Metric, digits: int = 3) -> str:
    """A value and its interval, as text."""
    if metric.value is None:
        return "–"
    ends = "" if metric.ci95 is None else f" [{metric.ci95[0]:.{digits}f}, {metric.ci95[1]:.{digits}f}]"
    return f"{metric.value:.{digits}f}{ends}"
