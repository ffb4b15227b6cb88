"""Rows that are appended to, against lists."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.decoding.growing_rows import GrowingRows

STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=12)


@given(STEPS)
def test_every_growth_of_any_rows_is_what_it_was_made_of(steps: list[tuple[int, int]]) -> None:
    made = [(GrowingRows.of(torch.arange(40)), list(range(40)))]
    for number, (of, count) in enumerate(steps):
        before, numbers = made[of % len(made)]
        further = [1_000 * (number + 1) + place for place in range(count)]
        made.append((before.appended(torch.tensor(further).long()), numbers + further))
    for rows, numbers in made:
        assert rows.rows_N.tolist() == numbers


def test_a_growth_into_the_room_copies_nothing() -> None:
    first = GrowingRows.of(torch.zeros(80, 2)).appended(torch.ones(1, 2))
    second = first.appended(torch.ones(3, 2))
    assert second.rows_N.data_ptr() == first.rows_N.data_ptr()
