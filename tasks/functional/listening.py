"""What the checks of listening found of every model a report is on, one row a check."""

from collections.abc import Iterator, Mapping
from typing import Any

# check -> what was asked, and where the answer stands
DIFFERENCES = {
    "audio swap": ("the clips in another order: every answer goes with its clip", "swap"),
    "batch composition": (
        "each clip alone against all together, batches of one-token clips included",
        "batch_composition",
    ),
    "left padding": ("one left-padded batch of all lengths through transformers' own forward", "left_padding"),
}
REFUSALS = {
    "zero-token guard": ("clips that give the model no audio token", "zero_token_clips"),
    "sampling-rate guard": ("audio said to be of another rate than the model's", "other_sampling_rates"),
}


def listening_section(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`listening` of report.json: `checks`, a row a check with the worst of all models, and what each model said.

    models: "adapter, seed 42, fold 0" -> what tasks/models/listening.py found. Every check stops a run that fails it, so a
    row tells by how much it was passed.
    """
    return {"checks": list(_rows(models)), "models": {name: dict(found) for name, found in models.items()}}


def _rows(models: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    found = list(models.values())
    allowed = max(its["tolerance"] for its in found)
    for check, (asked, key) in DIFFERENCES.items():
        worst = max(its[key]["largest_difference"] for its in found)
        yield _row(check, asked, f"P moves by at most {worst:.1g}", f"{allowed:g}", found)
        if check == "audio swap":
            yield _silence(found)
            yield _no_audio(found)
    for check, (asked, key) in REFUSALS.items():
        yield _row(check, asked, " and ".join(sorted({its[key] for its in found})), "refused", found)
    warnings = sum(its["processor_warnings"] for its in found)
    yield _row("processor warnings", "anything the processor warns of in the whole run", str(warnings), "0", found)


def _silence(found: list[Mapping[str, Any]]) -> dict[str, Any]:
    moved = [its["silence"]["largest_change_of_log_odds"] for its in found]
    least = min(its["silence"]["least_asked"] for its in found)
    said = f"log odds move by up to {min(moved):.2g}" + (f" to {max(moved):.2g}" if len(moved) > 1 else "")
    return _row("silence", "digital silence as long as each clip: the answer moves", said, f"over {least:g}", found)


def _no_audio(found: list[Mapping[str, Any]]) -> dict[str, Any]:
    prior = [its["no_audio"]["p_first"] for its in found]
    said = f"P of the first answer is {min(prior):.3f}" + (f" to {max(prior):.3f}" if len(prior) > 1 else "")
    return _row("no-audio prior", "the question alone, no audio in the turn", said, "recorded", found)


def _row(check: str, asked: str, found: str, allowed: str, models: list[Mapping[str, Any]]) -> dict[str, Any]:
    clips = sorted({its["clips"] for its in models})
    return {
        "check": check,
        "asked": asked,
        "found": found,
        "allowed": allowed,
        "models": len(models),
        "clips": " to ".join(f"{n}" for n in sorted({clips[0], clips[-1]})),
    }
