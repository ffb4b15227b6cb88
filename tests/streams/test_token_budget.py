"""The token budget: a minute's tokens at once, and not more than a minute's in any minute after."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.token_budget import TokenBudget, estimated_tokens


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_it_fills_evenly_and_not_above_a_minute() -> None:
    clock = Clock()
    budget = TokenBudget(600, clock)
    assert budget.reserve(600)
    assert not budget.reserve(1)
    clock.now_s = 1.0
    assert not budget.reserve(11)
    assert budget.reserve(10)
    clock.now_s = 3_600.0
    assert not budget.reserve(601)
    assert budget.reserve(600)


def test_what_was_not_used_comes_back_and_what_was_used_beyond_is_owed() -> None:
    budget = TokenBudget(100, Clock())
    assert budget.reserve(100)
    budget.settle(100, 30)
    assert budget.reserve(70)
    budget.settle(70, 90)
    assert not budget.reserve(1)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(1, 200), st.floats(0, 1)), min_size=1, max_size=60
    )
)
def test_no_minute_costs_more_than_two_budgets(calls: list[tuple[float, int, float]]) -> None:
    clock = Clock()
    budget = TokenBudget(300, clock)
    spent: list[tuple[float, int]] = []
    for gap_s, tokens, share in calls:
        clock.now_s += gap_s
        if budget.reserve(tokens):
            used = int(tokens * share)
            budget.settle(tokens, used)
            spent.append((clock.now_s, used))
        minute = [used for at_s, used in spent if clock.now_s - at_s <= 60]
        assert sum(minute) <= 600.001


def test_the_estimate_is_above_what_tokenizers_make_of_english_and_of_chinese() -> None:
    assert estimated_tokens("umbrella, rain jacket, waterproof walking shoes") >= 12
    assert estimated_tokens("雨伞和防水外套") >= 7
