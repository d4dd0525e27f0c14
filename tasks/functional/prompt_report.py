"""What a search for a prompt came to: the gain where it was looked for, where it was not, and what chance would promise."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tasks.functional.intervals import ClusteredInterval, clustered_interval, only_short, paired_difference
from tasks.functional.levels import ascending, level_names, varied
from tasks.functional.metrics import FloatArray
from tasks.functional.prompt_race import Clips, drawn_answers, filled
from tasks.functional.prompt_report_schema import (
    Cell,
    ClipCount,
    Compared,
    Dropped,
    Evaluations,
    Gains,
    LevelGain,
    ModelSearch,
    PromptReport,
    PromptRow,
    Round,
    StyleEffect,
    Tested,
)
from tasks.functional.prompt_search import HELD_OUT, SEARCH, chance_optimism, style_effects
from tasks.functional.prompt_text import Style, Wording, style_of
from tasks.functional.report_metrics import interval_of
from tasks.functional.report_schema import Metric

ANSWERS_DRAWN = 50  # times that the answers a race did not ask for are drawn
FACTORS = ("duration_ms", "snr_db", "band", "room")
NO_DIFFERENCE = Metric(value=0.0, reason="the study's own prompt was kept: there is no difference")
TRAITS = ("question", "command", "capitals", "swapped", "examples", "short")


class Rule(NamedTuple):
    """The classes, the positive one first, and how intervals are drawn."""

    classes: tuple[str, str]
    n_boot: int
    seed: int


class Searched(NamedTuple):
    """What one model's search left: record (search.json), clips (clip_id, label, group_id, role, block, factors), scores
    (prompt, clip_id, p_speech, prediction)."""

    record: Mapping[str, Any]
    clips: pd.DataFrame
    scores: pd.DataFrame


class TestRows(NamedTuple):
    """Test rows of one model under the study's own prompt and under the searched one: with label, group_id, prediction."""

    by_hand: pd.DataFrame
    searched: pd.DataFrame


def build_prompt_report(
    study: str,
    searched: Mapping[str, Searched],
    tests: Mapping[str, TestRows],
    rule: Rule,
    recorded: Mapping[str, Any],
) -> PromptReport:
    """The whole document; `searched` and `tests` by model ("base", "adapter"), `recorded`: looks and provenance."""
    models = {name: model_search(its, rule) for name, its in searched.items()}
    tested = {name: test_of(rows, rule) for name, rows in tests.items()}
    return PromptReport(
        study=study, classes=rule.classes, models=models, test=tested,
        verdict_lines=[line for name in models for line in verdict(name, models[name], tested.get(name))], **recorded,
    )  # fmt: skip


def model_search(its: Searched, rule: Rule) -> ModelSearch:
    """One model's search: gains, chance, comparison, style, and everything that was tried."""
    record, prompts = its.record, its.record["prompts"]
    best, own = int(record["best"]), its.clips[its.clips["role"] == SEARCH]
    clips, margin = matrix(own, its.scores, len(prompts), rule.classes)
    right = filled(margin, clips, best, rule.seed)
    answers = drawn_answers(margin, clips, best, ANSWERS_DRAWN, rule.seed)
    held = its.clips[its.clips["role"] == HELD_OUT]
    judged = {k: answers_to(held, its.scores, k) for k in sorted(set(its.scores["prompt"]))}
    whole = {k: rows for k, rows in judged.items() if len(rows) == len(held)}
    compared = [compared_prompt(k, prompts[k], whole, rule) for k in whole]
    gain = difference(judged[best], judged[0], rule) if best else NO_DIFFERENCE
    search_gain = float((right[best] - right[0]) @ clips.weight)  # scores have their length's penalty taken off
    styles = [style_of(Wording(row["text"], tuple(row["answers"])), rule.classes) for row in prompts]
    return ModelSearch(
        reference=0, best=best,
        prompts=[prompt_row(row, styles[k], int((~np.isnan(margin[k])).sum())) for k, row in enumerate(prompts)],
        clips={name: clip_count(rows) for name, rows in ((SEARCH, own), ("held_out", held))},
        gains=Gains(
            search=search_gain, held_out=gain, chance=chance_optimism(answers, clips, len(prompts)),
            candidates=len(prompts),
        ),
        compared=sorted(compared, key=lambda one: -(one.held_out.value or 0)),
        styles=style_table(styles, right, answers, clips, rule),
        rounds=[Round(**row) for row in record["rounds"]],
        dropped=[Dropped(**row) for row in record["dropped"]],
        evaluations=Evaluations(**record["evaluations"]), stopped=record["stopped"],
        length_penalty=record["length_penalty"], listening=dict(record["listening"]),
    )  # fmt: skip


# --- tables ------------------------------------------------------------------------------------------------------


def matrix(
    own: pd.DataFrame, scores: pd.DataFrame, n_prompts: int, classes: Sequence[str]
) -> tuple[Clips, FloatArray]:
    """The search clips and (prompts, clips) log odds of the first class, NaN where not asked."""
    place = {clip: k for k, clip in enumerate(own["clip_id"])}
    mine = scores[scores["clip_id"].isin(place)]
    column = mine["clip_id"].map(place).to_numpy()
    margin = np.full((n_prompts, len(own)), np.nan)
    p = mine["p_speech"].to_numpy().clip(1e-15, 1 - 1e-15)
    margin[mine["prompt"].to_numpy(), column] = np.log(p / (1 - p))
    group = pd.factorize(own["group_id"], sort=True)[0]
    return Clips(group, (own["label"] == classes[0]).to_numpy(), own["block"].to_numpy()), margin


def answers_to(held: pd.DataFrame, scores: pd.DataFrame, number: int) -> pd.DataFrame:
    """The held-out clips that one prompt was asked of, with its predictions."""
    return held.merge(scores.loc[scores["prompt"] == number, ["clip_id", "prediction"]], on="clip_id")


def clip_count(rows: pd.DataFrame) -> ClipCount:
    """Clips, and groups of each class."""
    groups = rows.groupby("label")["group_id"].nunique()
    return ClipCount(clips=len(rows), groups={str(name): int(n) for name, n in groups.items()})


def prompt_row(row: Mapping[str, Any], style: Style, asked: int) -> PromptRow:
    """One prompt with its style."""
    return PromptRow(**row, asked=asked, words=style.words, style=[name for name in TRAITS if getattr(style, name)])


def compared_prompt(number: int, row: Mapping[str, Any], judged: Mapping[int, pd.DataFrame], rule: Rule) -> Compared:
    """A prompt on the held-out clips, beside the study's own, which is number 0."""
    return Compared(
        number=number, text=row["text"], by=row["by"], search_accuracy=row["accuracy"],
        held_out=score_of(judged[number], rule),
        gain=difference(judged[number], judged[0], rule) if number else NO_DIFFERENCE,
    )  # fmt: skip


def style_table(
    styles: Sequence[Style], right: FloatArray, answers: FloatArray, clips: Clips, rule: Rule
) -> list[StyleEffect]:
    """What each trait of a prompt goes with, over the search clips: differences of what `filled` gives, intervals over
    `drawn_answers`. The prompts of a search are no random sample."""
    traits = {name: [bool(getattr(style, name)) for style in styles] for name in TRAITS}
    found = style_effects(right, answers, clips, traits, n_boot=min(rule.n_boot, 1000), seed=rule.seed)
    return [
        StyleEffect(
            trait=one.trait, with_it=one.with_it, without=one.without,
            difference=Metric(
                value=one.difference, ci95=None if one.low is None or one.high is None else (one.low, one.high),
                method=None if one.low is None else "bootstrap over prompts and groups", reason=one.reason,
            ),
        )
        for one in found
    ]  # fmt: skip


# --- test --------------------------------------------------------------------------------------------------------


def test_of(rows: TestRows, rule: Rule) -> Tested:
    """One row of the 2 x 2, and the same by condition."""
    same = rows.by_hand["prompt"].iloc[0] == rows.searched["prompt"].iloc[0]
    return Tested(
        clips=clip_count(rows.by_hand),
        by_hand=Cell(prompt=rows.by_hand["prompt"].iloc[0], balanced_accuracy=score_of(rows.by_hand, rule)),
        searched=Cell(prompt=rows.searched["prompt"].iloc[0], balanced_accuracy=score_of(rows.searched, rule)),
        gain=NO_DIFFERENCE if same else difference(rows.searched, rows.by_hand, rule),
        by={name: levels for name in FACTORS if (levels := by_level(rows, name, rule))},
    )


def by_level(rows: TestRows, factor: str, rule: Rule) -> dict[str, LevelGain]:
    """Both prompts at each level of a factor; empty where it has one level only."""
    if factor not in rows.by_hand:
        return {}
    mine = varied(rows.by_hand, factor)
    levels = level_names(mine[factor], factor)
    if levels.nunique() < 2:
        return {}
    found = {}
    for level, its in mine.groupby(levels):
        other = rows.searched[rows.searched["clip_id"].isin(its["clip_id"])]
        found[str(level)] = LevelGain(
            clips=len(its), by_hand=score_of(its, rule), searched=score_of(other, rule),
            gain=difference(other, its, rule),
        )  # fmt: skip
    return ascending(found)


def score_of(rows: pd.DataFrame, rule: Rule) -> Metric:
    """Balanced accuracy with its interval."""
    if reason := one_class(rows, rule):
        return Metric(value=None, reason=reason)
    found = clustered_interval(rows, "balanced_accuracy", n_boot=rule.n_boot, seed=rule.seed, positive=rule.classes[0])
    return metric_of(found)


def difference(a: pd.DataFrame, b: pd.DataFrame, rule: Rule) -> Metric:
    """Balanced accuracy of a less that of b on the same clips, without a value where a class is missing."""
    if reason := one_class(a, rule):
        return Metric(value=None, reason=reason)
    narrow = ["clip_id", "label", "group_id", "prediction"]
    found = paired_difference(
        a[narrow], b[narrow], "balanced_accuracy", n_boot=rule.n_boot, seed=rule.seed, positive=rule.classes[0]
    )
    return metric_of(found)


def one_class(rows: pd.DataFrame, rule: Rule) -> str | None:
    """Why balanced accuracy says nothing of these rows, None where they are of both classes."""
    missing = [name for name in rule.classes if not (rows["label"] == name).any()]
    return f"no clip is {missing[0]}" if missing else None


def metric_of(found: ClusteredInterval) -> Metric:
    """As a report states it."""
    method = None if found.method == "none" else found.method
    return Metric(value=found.value, ci95=interval_of(found), method=method, reason=found.reason)


# --- words -------------------------------------------------------------------------------------------------------


def verdict(name: str, search: ModelSearch, tested: Tested | None) -> list[str]:
    """What a reader must know first."""
    gains, evaluations = search.gains, search.evaluations
    if search.best == search.reference:
        return [
            f"{name}: none of {gains.candidates} prompts was better than the study's own on the clips searched; it is kept."
        ]
    winner = search.prompts[search.best]
    groups = " and ".join(f"{n} {label} groups" for label, n in search.clips["held_out"].groups.items())
    held = gains.held_out
    lines = [
        f'{name}: the search chose "{winner.text}".',
        f"On {search.clips['held_out'].clips} dev clips of {groups} that took no part, it gains {signed(held)} points of "
        f"balanced accuracy over the study's own prompt{decided(held)}.",
        f"On the clips that chose it, it looked {100 * gains.search:+.1f} points better; the best of {gains.candidates} "
        f"equal prompts would look {100 * gains.chance:.1f} points better than it is, by chance.",
        f"{evaluations.search:,} answers were asked for; asking every prompt of every clip takes "
        f"{evaluations.full_search:,} ({evaluations.search / evaluations.full_search:.0%}).",
    ]  # fmt: skip
    if tested:
        lines.append(f"On test, looked at once it was chosen: {signed(tested.gain)} points{decided(tested.gain)}.")
    return lines


def signed(metric: Metric) -> str:
    """A difference in points, with its interval."""
    if metric.value is None:
        return "an unknown number of"
    ends = f" [{100 * metric.ci95[0]:+.1f}, {100 * metric.ci95[1]:+.1f}]" if metric.ci95 else ""
    return f"{100 * metric.value:+.1f}{ends}"


def decided(metric: Metric) -> str:
    """Whether the interval leaves out 0, and on which side; nothing is decided by one that is not to be relied on."""
    if not metric.ci95:
        return f" ({metric.reason})" if metric.reason else ""
    if metric.reason and not only_short(metric.method, metric.reason):
        return f": not shown to differ ({metric.reason})"
    if metric.ci95[0] <= 0 <= metric.ci95[1]:
        return ": not shown to differ"
    return ": better" if metric.ci95[0] > 0 else ": worse"


def summary_lines(report: PromptReport) -> list[str]:
    """What a command ends with: the verdict, and the 2 x 2 on test."""
    rows = [
        f"{name:<10} {told(its.by_hand.balanced_accuracy):<24} {told(its.searched.balanced_accuracy):<24} {signed(its.gain)}"
        for name, its in report.test.items()
    ]
    head = f"{'test':<10} {'by hand':<24} {'searched':<24} difference in points"
    return [*report.verdict_lines, "", head, *rows] if rows else report.verdict_lines


def told(metric: Metric) -> str:
    """A value with its interval."""
    if metric.value is None:
        return "-"
    return f"{metric.value:.3f}" + (f" ({metric.ci95[0]:.3f} to {metric.ci95[1]:.3f})" if metric.ci95 else "")
