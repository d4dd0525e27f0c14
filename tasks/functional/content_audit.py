"""Copies between the parts of a data set: found by content, and planted to measure how many would have been found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.functional.audio import SAMPLE_RATE_HZ, Waveform, band_limit, n_samples, rms
from tasks.functional.duplicates import FAMILY_WISE, least_score, search
from tasks.functional.leakage import clips_of

DURATIONS_MS = (40, 100, 200, 500, 1000)
CONDITIONS = ((20.0, "clean"), (10.0, "clean"), (0.0, "clean"), (10.0, "phone"))  # SNR in dB, band
PLANTED = 10  # copies in each cell
FEWEST_HOSTS = 4
OVERHANG = 0.1  # of a copy, that may reach beyond the clip it is of
GAIN_DB = 12.0
NAMES = ("clip_id", "recording_id", "group_id", "noise_id")
NAMED = 50  # found pairs that are listed


class Content(NamedTuple):
    """What was found between parts, and what would have been.

    `found`: a, b (positions), score, lag_s, expected (pairs that chance brings so high), leak (expected <= .01), strongest
    first; what is no leak is a suspect. `recall`: duration_ms, snr_db, band, planted, found, in copies of clips of the
    part `hosts`. `pairs`: of clips of different parts; `correlated` of `pieces`: pairs of their pieces that were compared
    sample by sample. `least_score`: from which a pair is a leak. `unsearchable`: positions of silent clips and of those
    under 20 ms.
    """

    found: pd.DataFrame
    recall: pd.DataFrame
    hosts: str
    pairs: int
    correlated: int
    pieces: int
    least_score: float
    unsearchable: list[int]


def audit_content(
    audio: Sequence[Waveform],
    part: Sequence[str],
    *,
    most_pairs: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> Content:
    """Look for copies between clips (16 kHz) of different parts, then for copies that were planted for that.

    A pair is a leak where its score is beyond what chance brings over all lags of all pairs, family-wise .01. Both
    searches compare about `most_pairs` sample by sample. say: takes lines on how far it has come. Raises ValueError where
    there are fewer than two parts.
    """
    sizes = pd.Series(part, dtype=object).value_counts(sort=False)
    if len(sizes) < 2:
        raise ValueError(f"the clips are of {len(sizes)} part; copies are looked for between two or more")
    names = list(sizes.index)
    pairs = int(sizes.sum() ** 2 - (sizes**2).sum()) // 2
    result = search(
        audio, [names.index(name) for name in part], sample_rate=SAMPLE_RATE_HZ, most_pairs=most_pairs,
        say=lambda line: say(f"copies between parts: {line}"),
    )  # fmt: skip
    least = least_score(result.lags)
    largest = str(sizes.idxmax())
    hosts = [clip for clip, its in zip(audio, part, strict=True) if its == largest]
    recall = measure_recall(
        hosts, least, most_pairs=most_pairs, seed=seed, say=lambda line: say(f"planted copies: {line}")
    )
    found = result.table.assign(leak=result.table["score"] >= least)
    return Content(found, recall, largest, pairs, result.compared, result.pairs, least, result.unsearchable)


def choose_clips(clips: pd.DataFrame, most: int) -> NDArray[np.intp]:
    """Positions of at most `most` clips of each part: of every recording one before of any a second, long and clean ones
    first.

    `clips` has the column part; recording_id, base_clip_id, duration_ms and snr_db are used where they are there.
    """
    table = clips.reset_index(drop=True)
    clean = table["snr_db"].fillna(np.inf) if "snr_db" in table else 0.0
    long = table.get("duration_ms", 0.0)
    ranked = table.assign(clean=clean, long=long).sort_values(["long", "clean"], ascending=False, kind="stable")
    for column in ("base_clip_id", "recording_id"):
        if column in table:
            turn = ranked.groupby(["part", column], dropna=False).cumcount()
            ranked = ranked.loc[turn.sort_values(kind="stable").index]
    chosen: NDArray[np.intp] = np.sort(ranked.index[ranked.groupby("part").cumcount() < most].to_numpy())
    return chosen


def content_record(content: Content, compared: pd.DataFrame, clips: Mapping[str, int], seed: int) -> dict[str, Any]:
    """What audit.json holds of it; `compared` are the rows of the clips that were compared, `clips` counts all by part."""
    told = [_pair(row, compared) for row in content.found.to_dict("records")]
    planted, found = (int(content.recall[name].sum()) for name in ("planted", "found"))
    return {
        "clips": dict(clips),
        "compared": {name: int(n) for name, n in compared["part"].value_counts(sort=False).items()},
        "unsearchable": len(content.unsearchable),
        "pairs": content.pairs,
        "correlated": content.correlated,
        "pieces": content.pieces,
        "family_wise": FAMILY_WISE,
        "least_score": round(content.least_score, 2),
        "leaks": sum(pair["leak"] for pair in told),
        "suspects": sum(not pair["leak"] for pair in told),
        "found": told[:NAMED],
        "hosts": content.hosts,
        "recall": content.recall.to_dict("records"),
        "miss_rate": round(1 - found / planted, 4) if planted else None,
        "seed": seed,
    }


def _pair(row: Mapping[Any, Any], compared: pd.DataFrame) -> dict[str, Any]:
    """One found pair with whatever names its clips, recordings and noises have."""
    a, b = (compared.iloc[int(row[side])] for side in ("a", "b"))
    names = {name: [_plain(a[name]), _plain(b[name])] for name in ("part", *NAMES) if name in compared}
    noise = names.get("noise_id", [None, None])
    numbers = {
        "score": round(row["score"], 2),
        "lag_s": round(row["lag_s"], 4),
        "expected": float(f"{row['expected']:.2g}"),
    }
    return {**names, **numbers, "leak": bool(row["leak"]), "same_noise": noise[0] is not None and noise[0] == noise[1]}


def _plain(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def describe_content(record: Mapping[str, Any]) -> list[str]:
    """The record in lines for a reader: what was compared, what was found, and what would have been missed."""
    compared = clips_of(record["compared"], record["clips"])
    blind = f"; {record['unsearchable']} silent or under 20 ms" if record["unsearchable"] else ""
    lines = [
        f"content: {compared}{blind}; {record['pairs']:,} pairs{likest(record)}, {record['leaks']} beyond chance "
        f"(score {record['least_score']:g} and more), {record['suspects']} suspect",
        *(f"  {'copy' if pair['leak'] else 'suspect'}: {_say(pair)}" for pair in record["found"]),
    ]
    if record["miss_rate"] is None:
        return [*lines, "  no copies were planted, the clips are too few or too short: what was missed is not known"]
    cells = [
        f"{row['duration_ms']} ms {row['snr_db']:g} dB{' phone' if row['band'] == 'phone' else ''} "
        f"{row['found']}/{row['planted']}"
        for row in record["recall"]
    ]
    return [
        *lines,
        f"  copies of clips of {record['hosts']}, planted in pink noise and found: {'; '.join(cells)}; missed "
        f"{record['miss_rate']:.0%} of all",
    ]


def describe_comparison(audit: Mapping[str, Any]) -> str:
    """What an audit (audit.json) compared between the parts, and how much finding nothing is worth."""
    record = audit.get("content")
    if not record:
        return (
            "Declared identities and exact audio are compared between the parts; near-duplicates are not looked for."
        )
    compared = clips_of(record["compared"], record["clips"])
    blind = f" ({record['unsearchable']} of them silent or under 20 ms)" if record["unsearchable"] else ""
    missed = (
        "no copies could be planted for that: what was missed is not known"
        if record["miss_rate"] is None
        else f"of copies planted for that {100 * record['miss_rate']:.0f} % were missed, so finding none proves no more"
    )
    return (
        f"Declared identities and exact audio are compared between the parts. The content of {compared}{blind} was compared "
        f"for copies at another gain, offset, SNR or band{likest(record)}: {record['leaks']} pairs beyond chance, "
        f"{record['suspects']} suspect; {missed}."
    )


def likest(record: Mapping[str, Any]) -> str:
    """That only some pairs of pieces, of which a clip over 2 s has several, were compared sample by sample; "" where all
    were, or where an older record does not say."""
    correlated, pieces = record.get("correlated", 0), record.get("pieces", 0)
    return (
        f" (of {pieces:,} pairs of their pieces the {correlated:,} likest sample by sample)"
        if correlated < pieces
        else ""
    )


def describe_leaks(record: Mapping[str, Any]) -> str:
    """The leaks in one sentence, some pairs named."""
    named = "; ".join([_say(pair) for pair in record["found"] if pair["leak"]][:3])
    return (
        f"the parts hold {record['leaks']} pairs of clips with one recording under two names, e.g. {named}. "
        "Remove the copies, or give both one group"
    )


def _say(pair: Mapping[str, Any]) -> str:
    clips = " and ".join(f"{name} ({part})" for name, part in zip(pair["clip_id"], pair["part"], strict=True))
    noise = ", the same added noise" if pair["same_noise"] else ""
    return f"{clips}, score {pair['score']:g} at a lag of {pair['lag_s']:g} s{noise}"


# --- planting ----------------------------------------------------------------------------------------------------


def measure_recall(
    hosts: Sequence[Waveform],
    least: float,
    *,
    most_pairs: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """How many planted copies of these clips score `least`: duration_ms, snr_db, band, planted, found.

    A duration is planted where at least four clips are long enough for it.
    """
    rng = np.random.default_rng(seed)
    planted = list(_plant(hosts, rng))
    audio = [*hosts, *(copy for _, _, copy in planted)]
    part = [0] * len(hosts) + [1] * len(planted)
    table = search(audio, part, sample_rate=SAMPLE_RATE_HZ, most_pairs=most_pairs, lags=1, say=say).table
    found = {(a, b - len(hosts)) for a, b in table.loc[table["score"] >= least, ["a", "b"]].to_numpy().tolist()}
    rows = [(*cell, (host, k) in found) for k, (cell, host, _) in enumerate(planted)]
    cells = pd.DataFrame(rows, columns=["duration_ms", "snr_db", "band", "found"]).groupby(
        ["duration_ms", "snr_db", "band"], sort=False
    )["found"]
    return cells.agg(planted="size", found="sum").reset_index()


def _plant(
    hosts: Sequence[Waveform], rng: np.random.Generator
) -> Iterator[tuple[tuple[int, float, str], int, Waveform]]:
    """Cell, host and copy, cell by cell."""
    for duration_ms in DURATIONS_MS:
        n = n_samples(duration_ms)
        long = [k for k, host in enumerate(hosts) if host.size >= n and np.any(host)]
        for snr_db, band in CONDITIONS if len(long) >= FEWEST_HOSTS else ():
            for host in np.resize(rng.permutation(long), PLANTED):
                yield (duration_ms, snr_db, band), int(host), disguise(hosts[host], n, snr_db, band, rng)


def disguise(clip: Waveform, n: int, snr_db: float, band: str, rng: np.random.Generator) -> Waveform:
    """`n` samples of a clip at another offset (up to a tenth beyond its ends), in pink noise, band, gain and sign."""
    slack = round(OVERHANG * n)
    padded = np.pad(clip.astype(np.float64), slack)
    starts = rng.integers(0, padded.size - n + 1, 8)
    levels = [rms(padded[start : start + n]) for start in starts]
    loud = int(np.argmax(np.array(levels) >= 0.5 * max(levels)))  # the first that is not a pause
    copy = padded[starts[loud] : starts[loud] + n]
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) / np.sqrt(np.arange(1, n // 2 + 2)), n)
    copy = copy + noise * (levels[loud] / rms(noise) * 10 ** (-snr_db / 20))
    gain = rng.choice([-1, 1]) * 10 ** (rng.uniform(-GAIN_DB, GAIN_DB) / 20)
    return gain * band_limit(copy, band)
