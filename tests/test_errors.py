"""Sentences of errors."""

from vswin_jax.errors import join_some


def test_a_long_list_is_cut() -> None:
    assert join_some(["a", "b", "c"], 3) == "a, b, c"
    assert join_some(["a", "b", "c", "d", "e"], 2) == "a, b and 3 more"
