"""Generated sounds and rooms: enough of them, each draw its own and always the same."""

import numpy as np
import pandas as pd
import pytest

from recipes.sources import RoomsSource, SyntheticSource
from tasks import sources

CONTENT = SyntheticSource(kind="synthetic", draws=2, duration_s=2)
NOISE = SyntheticSource(kind="synthetic", role="noise", draws=2, duration_s=2)
BLOCKS = {"content": CONTENT, "noise": NOISE}
ROOMS = RoomsSource(kind="rooms", rt60_s=(0.3, 1), draws=3)


@pytest.fixture(scope="module")
def rendered() -> pd.DataFrame:
    tables = [sources.recordings(block) for block in BLOCKS.values()]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(samples=[sources.waveform(BLOCKS[row.role], row) for row in table.itertuples()])


def test_there_are_generators_enough_for_every_split() -> None:
    table = sources.recordings(CONTENT)
    assert table.columns.tolist() == list(sources.COLUMNS)
    generators = table.groupby("family")["supergroup_id"].nunique()
    assert generators.size == 4
    assert generators.min() >= 4
    assert generators.sum() >= 16
    assert table["group_id"].nunique() == len(table) == 2 * generators.sum()
    assert set(table["label"]) == {"NONSPEECH"}
    assert sources.recordings(NOISE)["supergroup_id"].nunique() >= 8
    assert sources.recordings(NOISE)["label"].isna().all()


def test_noise_and_content_share_no_generator() -> None:
    assert not set(sources.recordings(NOISE)["supergroup_id"]) & set(sources.recordings(CONTENT)["supergroup_id"])


def test_every_draw_is_sound_of_the_asked_length(rendered: pd.DataFrame) -> None:
    for row in rendered.itertuples():
        samples = row.samples
        assert samples.shape == (32_000,), row.recording_id
        assert samples.dtype == np.float32
        assert np.abs(samples).max() == pytest.approx(0.7), row.recording_id
        assert abs(samples.mean()) < 0.1, row.recording_id


def test_no_two_draws_are_alike(rendered: pd.DataFrame) -> None:
    flat = np.stack([samples / np.linalg.norm(samples) for samples in rendered["samples"]])
    alike = np.abs(np.triu(flat @ flat.T, 1))
    assert alike.max() < 0.9, rendered["recording_id"].to_numpy()[[*np.unravel_index(alike.argmax(), alike.shape)]]


def test_backgrounds_are_stationary(rendered: pd.DataFrame) -> None:
    for row in rendered[rendered["role"] == "noise"].itertuples():
        levels_db = 10 * np.log10(np.mean(row.samples.reshape(20, 1_600).astype(float) ** 2, axis=1))
        assert np.ptp(levels_db) < 12, row.recording_id


def test_a_draw_is_the_same_in_any_order_and_another_with_another_seed(rendered: pd.DataFrame) -> None:
    for row in list(rendered.itertuples())[::-3]:
        np.testing.assert_array_equal(sources.waveform(BLOCKS[row.role], row), row.samples)
    row = next(rendered.itertuples())
    other = sources.waveform(CONTENT.model_copy(update={"seed": 1}), row)
    assert not np.array_equal(other, row.samples)


def test_white_pink_and_brown_have_their_slopes(rendered: pd.DataFrame) -> None:
    by_name = rendered.set_index("recording_id")["samples"]
    for name, expected in (("blue", 3.01), ("white", 0), ("pink", -3.01), ("brown", -6.02)):  # dB per octave
        power = np.abs(np.fft.rfft(by_name[f"synthetic:{name}:00"])) ** 2
        octaves = [10 * np.log10(power[2 * low : 4 * low].mean()) for low in (250, 500, 1_000, 2_000)]
        assert np.diff(octaves).mean() == pytest.approx(expected, abs=0.8), name


def test_families_can_be_chosen_for_content_only() -> None:
    assert set(sources.recordings(CONTENT.model_copy(update={"families": ("music",)}))["family"]) == {"music"}
    with pytest.raises(ValueError, match="families choose among content"):
        sources.recordings(NOISE.model_copy(update={"families": ("music",)}))


def test_rooms_are_groups_of_their_own_and_carry_their_level() -> None:
    table = sources.recordings(ROOMS)
    assert table.columns.tolist() == list(sources.COLUMNS)
    assert table["category"].tolist() == ["0.3"] * 3 + ["1"] * 3
    assert table["group_id"].is_unique
    rirs = [sources.waveform(ROOMS, row) for row in table.itertuples()]
    assert [rir.size for rir in rirs] == [6_000] * 3 + [20_000] * 3
    assert not np.array_equal(rirs[0], rirs[1])
    np.testing.assert_array_equal(rirs[4], sources.waveform(ROOMS, list(table.itertuples())[4]))
