"""What a reader must know before any number: leaks, failed gates, too few groups, and what is not beaten."""

from collections.abc import Mapping
from typing import Any, Literal

from tasks.functional.goals import FAILED
from tasks.functional.intervals import only_short
from tasks.functional.report_schema import Comparison, Detector, Metric

PLAIN_NAMES = {  # how the verdict speaks of a detector, in the verdict's order
    "mel_statistics": "a logistic regression over log-mel statistics",
    "six_cues": "gradient boosting over six trivial cues",
    "loudness": "a loudness threshold",
    "webrtc": "WebRTC's voice activity detector",
    "silero": "Silero's voice activity detector at a threshold chosen on dev",
    "silero_default": "Silero at its vendor's threshold",
    "pyannote": "PyAnnote's segmentation at a threshold chosen on dev",
    "whisper": "how little Whisper doubts that there is speech, at a threshold chosen on dev",
    "whisper_transcript": "whether Whisper writes down a word",
    "majority": "always naming the majority class",
    "base": "the base model without the adapter",
    "no_audio": "what the model answers without any sound",
}
WITH_ARTICLE = ("adapter", "base")
DEV_FLAGS = {
    "separable": "separates the classes without a mistake: its threshold is one of many that do",
    "inverted": "scores the classes the wrong way round: its threshold is worth nothing",
    "constant": "gives one score to every dev clip: there is no threshold to choose, and 0.5 stays",
}
Unheard = Literal["clean", "leaky", "not audited"]
Beats = Literal["yes", "no", "undecided"]
BEATS: dict[str, Beats] = {"better": "yes", "worse": "no", "not distinguishable": "undecided"}


def verdict_lines(
    headline: str,
    detector: Detector,
    comparisons: Mapping[str, Comparison],
    protocol: str | None,
    recorded: Mapping[str, Any],
) -> list[str]:
    """Sentences that open report and card: what is wrong with the numbers, what they do not beat, what to mind."""
    cells = (recorded.get("provenance") or {}).get("cells") or ()
    rivals = {name: one for name, one in comparisons.items() if name.removesuffix(FAILED) not in cells}
    return [
        *_warnings(headline, detector, protocol, recorded),
        *_pairing(headline, comparisons),
        *_unbeaten(headline, rivals),
        *_of_cells(headline, {name: one for name, one in comparisons.items() if name not in rivals}),
        *_several(comparisons),
        *_remarks(detector),
    ]


def unheard(protocol: str | None, recorded: Mapping[str, Any]) -> Unheard:
    """Whether the numbers are of unheard recordings: "clean" where an audit found them so, "leaky" where they were dealt at
    random or the audit is not clean, "not audited" where nobody looked."""
    audit = _audit(recorded)
    if dealt_at_random(protocol, recorded):
        return "leaky"
    return "not audited" if audit is None else "clean" if audit == "clean" else "leaky"


def dealt_at_random(protocol: str | None, recorded: Mapping[str, Any]) -> bool:
    """Whether clips were dealt to train and test whatever recording they are of, by the rows themselves or by the study."""
    return "random" in (protocol, (recorded.get("provenance") or {}).get("protocol"))


def _audit(recorded: Mapping[str, Any]) -> str | None:
    """What the audit says; None where there is none."""
    verdict: str | None = (recorded.get("leakage") or {}).get("verdict")
    return verdict


def _subject(headline: str) -> str:
    return f"The {headline}" if headline in WITH_ARTICLE else headline


def _warnings(headline: str, detector: Detector, protocol: str | None, recorded: Mapping[str, Any]) -> list[str]:
    lines = []
    if limit := (recorded.get("provenance") or {}).get("quick_look"):
        lines.append(f"A quick look at {limit} clips of each part, no result: the whole test split was not scored.")
    known = unheard(protocol, recorded)
    if known == "leaky":
        random = _audit(recorded) in (None, "clean")
        why = "The protocol is 'random'" if random else f"The leakage audit says {_audit(recorded)!r}"
        lines.append(f"{why}: these numbers are not of unheard recordings.")
    if known == "not audited":
        lines.append("Not audited: whether these numbers are of unheard recordings is not known.")
    gate = recorded.get("gate") or {}
    if gate.get("passed") is False:
        lines.append(
            f"The adapter failed its training gate: accuracy on train {min(gate['train_accuracy'].values()):.3f}, "
            f"{gate['asked']:.3f} was asked."
        )
    stated = detector.metrics["balanced_accuracy"]
    if stated.reason and not only_short(stated.method, stated.reason):
        lines.append(_of_interval(headline, stated))
    for flag in sorted(set(detector.threshold.flags.values())):
        folds = [fold for fold, its in detector.threshold.flags.items() if its == flag]
        where = "on dev" if folds == ["0"] else f"on dev of fold {', '.join(folds)}"
        lines.append(f"{_subject(headline)}, {where}, {DEV_FLAGS[flag]}.")
    return lines


def _of_interval(headline: str, stated: Metric) -> str:
    """Why the balanced accuracy has no value or interval, or why its interval is not to be relied on."""
    reason = (stated.reason or "").removesuffix(": no interval").removesuffix(": unreliable")
    if stated.value is None:
        return f"{_subject(headline)} has no balanced accuracy: {reason}."
    if stated.ci95 is None:
        return f"The balanced accuracy has no interval: {reason}."
    return f"The interval of the balanced accuracy is not to be relied on: {reason}."


def _remarks(detector: Detector) -> list[str]:
    stated = detector.metrics["balanced_accuracy"]
    if not only_short(stated.method, stated.reason):
        return []
    reason = (stated.reason or "").removesuffix(": unreliable")
    return [f"Mind that the interval of the balanced accuracy may be too short: {reason}."]


def _pairing(headline: str, comparisons: Mapping[str, Comparison]) -> list[str]:
    return [
        f"{_subject(headline)} and {name} have {one.n:,} clips in common, of {one.n_this:,} and {one.n_other:,}: they are "
        "compared on those alone."
        for name, one in comparisons.items()
        if not one.n == one.n_this == one.n_other
    ]


def _unbeaten(headline: str, comparisons: Mapping[str, Comparison]) -> list[str]:
    """A sentence for every detector that the headline is not shown to beat; the baselines first."""
    lines = []
    for name in sorted(comparisons, key=lambda name: ([*PLAIN_NAMES, name].index(name), name)):
        one = comparisons[name]
        if one.verdict == "better":
            continue
        claim = "does not beat" if one.verdict == "worse" else "is not shown to beat"
        between = "no interval: " + (one.reason or "") if one.ci95 is None else (
            f"95 % CI [{one.ci95[0]:.3f}, {one.ci95[1]:.3f}]"
        )  # fmt: skip
        if one.ci95 and one.reason and not only_short(one.method, one.reason):
            between += f", {one.reason}"
        lines.append(
            f"{_subject(headline)} {claim} {PLAIN_NAMES.get(name, f'the detector {name}')}: "
            f"{one.statistic.replace('_', ' ')} {one.value:.3f} against {one.other:.3f} "
            f"(difference {one.difference:+.3f}, {between})."
        )
    return lines


def _of_cells(headline: str, cells: Mapping[str, Comparison]) -> list[str]:
    """One sentence on all cells of an ablation, which are other settings and no rivals; which of them failed the gate."""
    if not cells:
        return []
    better, worse, alike = (
        [name.removesuffix(FAILED) for name, one in cells.items() if one.verdict == verdict]
        for verdict in ("worse", "better", "not distinguishable")
    )
    failed = [name.removesuffix(FAILED) for name in cells if name.endswith(FAILED)]
    found = {"better": better, "worse": worse, "not distinguishable": alike, "failed the training gate": failed}
    said = "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)
    return [f"Of {len(cells)} cells, the same with one thing changed, against {_subject(headline).lower()}: {said}."]


def _several(comparisons: Mapping[str, Comparison]) -> list[str]:
    """That the verdicts hold one by one: their intervals are not widened for how many there are."""
    if len(comparisons) < 2:
        return []
    return [
        f"{len(comparisons)} comparisons are shown; verdicts are by single intervals, Holm's p stands beside them."
    ]
