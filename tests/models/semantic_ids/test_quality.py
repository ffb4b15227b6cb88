"""The quality report, compared with counting by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.semantic_ids.quality import QualityReport, gini, quality_report
from models.semantic_ids.quality_figure import draw_quality

CODES = 8
DEPARTMENTS = ("Care", "Make-up")


@pytest.fixture(scope="module")
def sids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CODES, (400, 3)).astype(np.int16)


@pytest.fixture(scope="module")
def categories(sids: np.ndarray) -> list[str]:
    return [f"Beauty > {DEPARTMENTS[a % 2]} > {a}-{b % 2}" for a, b, _ in sids.tolist()]


@pytest.fixture(scope="module")
def report(sids: np.ndarray, categories: list[str]) -> QualityReport:
    return quality_report(sids, CODES, categories)


def test_the_report_counts_what_a_hand_count_counts(
    report: QualityReport, sids: np.ndarray
) -> None:
    held = Counter(map(tuple, sids.tolist()))
    assert report.items == 400
    assert report.distinct_sids == len(held)
    assert report.collision_rate == sum(size for size in held.values() if size > 1) / 400
    assert report.items_per_sid[-1] == max(held.values())
    assert report.items_per_sid[0] == sorted(held.values())[len(held) // 2]
    for level in range(3):
        prefixes = len({sid[: level + 1] for sid in held})
        assert report.levels[level].prefixes == prefixes
        assert report.levels[level].coverage == prefixes / CODES ** (level + 1)


def test_purity_is_counted_at_each_depth_of_the_category(
    report: QualityReport, sids: np.ndarray, categories: list[str]
) -> None:
    assert report.purity[:2] == (1.0, 1.0)  # the second name depends on the first code alone
    largest = 0
    for code in range(CODES):
        leaves = Counter(c for c, sid in zip(categories, sids, strict=True) if sid[0] == code)
        largest += max(leaves.values())
    assert report.purity[2] == largest / 400
    assert report.purity[2] < 0.7


def test_items_without_a_category_do_not_count_for_purity(sids: np.ndarray) -> None:
    some = ["" if row % 2 else f"c{sid[0]}" for row, sid in enumerate(sids)]
    assert quality_report(sids, CODES, some).purity == (1.0,)
    assert quality_report(sids, CODES, [""] * len(sids)).purity == ()


def test_equal_load_has_gini_0_and_perplexity_v_and_one_code_for_all_has_neither() -> None:
    equal = np.repeat(np.arange(CODES), 5)[:, None]
    level = quality_report(equal, CODES, [""] * len(equal)).levels[0]
    assert level.gini == pytest.approx(0, abs=1e-12)
    assert level.perplexity == pytest.approx(CODES)
    alone = quality_report(np.zeros((40, 1), dtype=np.int16), CODES, [""] * 40).levels[0]
    assert alone.gini == pytest.approx(1 - 1 / CODES)
    assert alone.perplexity == pytest.approx(1)
    assert alone.codes_used == 1


def test_gini_is_the_mean_difference_of_two_codes_over_twice_the_mean_load() -> None:
    loads = np.array([0, 3, 3, 10, 24])
    differences = np.abs(loads[:, None] - loads[None, :]).mean()
    assert gini(loads) == pytest.approx(float(differences / (2 * loads.mean())))


def test_the_reconstruction_error_is_a_share_of_the_energy(sids: np.ndarray) -> None:
    lengths, errors = np.full(400, 2.0), np.full(400, 0.5)
    found = quality_report(sids, CODES, [""] * 400, squared_errors=errors, squared_lengths=lengths)
    assert found.reconstruction_error == pytest.approx(0.25)
    assert quality_report(sids, CODES, [""] * 400).reconstruction_error is None


def test_the_figure_is_a_png_also_without_categories(
    report: QualityReport, sids: np.ndarray, tmp_path: Path
) -> None:
    draw_quality(tmp_path / "quality.png", report, sids, CODES, "a title")
    drawn = (tmp_path / "quality.png").read_bytes()
    assert drawn.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(drawn) > 10_000
    nameless = quality_report(sids, CODES, [""] * 400)
    draw_quality(tmp_path / "nameless.png", nameless, sids, CODES, "a title")
    assert (tmp_path / "nameless.png").read_bytes() != drawn
