"""A folder in, a table out: new files answered by a published adapter, and what of them a person should hear."""

from typing import Literal

from prefect import flow

from tasks.answers import answer_files
from tasks.reviews import find_new_files, keep_answers


@flow(name="predict", flow_run_name="predict {folder}")
def predict(
    adapter: str,
    folder: str,
    out: str,
    confidence: float = 0.65,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> dict[str, int]:
    """Answer the files below `folder` that are new or changed, into predictions.parquet, review.parquet and drift.json in
    `out`; how many are new, to review, and known in all.

    adapter: NAMESPACE/NAME[@sha], or its folder. To review is what is answered with less than `confidence`, lies outside
    what the card was measured on, or belongs to a batch that drifts from it. Set `status` there to "reviewed" and `label`
    to what you hear, and a source reads it for the next training:
    {kind: table, root: FOLDER, metadata: OUT/review.parquet, where: {status: [reviewed]}}. Where a file changes after it
    was reviewed, `status` becomes "changed".
    """
    new = find_new_files(folder, out, adapter)
    if not new:
        return {"new": 0}
    answers = answer_files(adapter, folder, list(new), device)
    return keep_answers(answers, new, out, adapter, confidence)
