"""Splits: the clips of all parts, audited. No split exists that was not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.schema import CheckFailed, DatasetRecipe
from tasks.cache import cached, task
from tasks.functional.design import balance
from tasks.functional.leakage import Audit, audit
from tasks.run_page import say, show_table
from tasks.store import Clips, Splits, draft, write_json


@task(task_run_name="splits of {recipe.name}, audited", **cached(libraries=("numpy", "pandas", "pyarrow")))
def make_splits(clips: Sequence[Clips], recipe: DatasetRecipe) -> Splits:
    """Gather the parts and audit them. Under `protocol: group` a leak raises ValueError and names the pairs."""
    tables = {reference.part: pq.read_table(reference.path / "clips.parquet") for reference in clips}
    if recipe.splits.protocol == "random":
        tables = reshuffle(tables, recipe.splits.seed)
    columns = pd.concat([table.drop_columns(["audio"]).to_pandas() for table in tables.values()], ignore_index=True)
    found = audit(columns)
    show_table("audit", records(found), f"Leakage audit of {recipe.name}: {found.verdict}")
    if found.verdict != "clean":
        if recipe.splits.protocol == "group":
            raise CheckFailed(describe(found))
        say(f"the split is leaky, as protocol random is: {describe(found)}")
    with draft(Splits) as folder:
        (folder / "data").mkdir()
        for part, table in tables.items():
            pq.write_table(with_features(table), folder / "data" / f"{part}.parquet", row_group_size=256)
        even = balance(columns)
        even.counts.to_csv(folder / "balance.csv", index=False)
        write_json(folder / "audit.json", audit_record(found, recipe.splits.protocol))
        write_json(folder / "balance.json", {"largest_imbalance": even.largest})
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        groups = columns.groupby(["part", "label"])["group_id"].nunique()
        return Splits.of(
            folder,
            clips={part: len(table) for part, table in tables.items()},
            groups={part: groups[part].to_dict() for part in tables},
            verdict="leaky" if recipe.splits.protocol == "random" else found.verdict,
            folds=recipe.splits.folds or 1,
        )


def records(found: Audit) -> list[dict[str, Any]]:
    """The audit's rows as plain mappings."""
    return [{str(key): value for key, value in row.items()} for row in found.rows.to_dict("records")]


def audit_record(found: Audit, protocol: str) -> dict[str, object]:
    """What audit.json holds."""
    return {"verdict": found.verdict, "protocol": protocol, "checks": records(found)}


def describe(found: Audit) -> str:
    """The leaks in one sentence, the pairs named."""
    leaks = found.rows[found.rows["shared"] > 0]
    named = "; ".join(f"{row.check}: {row.shared} shared, e.g. {row.pairs}" for row in leaks.itertuples())
    return f"the parts of this data set share {named}. Deal by a larger unit (supergroup), or remove the copies"


def reshuffle(tables: dict[str, pa.Table], seed: int) -> dict[str, pa.Table]:
    """The same clips dealt at random within class, every part keeping its size: the protocol that leaks."""
    whole = pa.concat_tables(tables.values())
    labels = np.array(whole["label"].to_pylist())
    parts = np.concatenate([[part] * len(table) for part, table in tables.items()])
    random = np.random.default_rng(seed)
    dealt = parts.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        dealt[rows] = random.permutation(parts[rows])
    at = whole.column_names.index("part")
    whole = whole.set_column(at, "part", pa.array(dealt.tolist(), pa.string()))
    return {part: whole.filter(pa.array(dealt == part)) for part in tables}


def with_features(table: pa.Table) -> pa.Table:
    """The table with the features that `datasets` reads from a parquet's own metadata: audio as audio."""
    from datasets import Audio, Features

    features = Features({**Features.from_arrow_schema(table.schema), "audio": Audio(sampling_rate=16_000)})
    return table.replace_schema_metadata(features.arrow_schema.metadata)
