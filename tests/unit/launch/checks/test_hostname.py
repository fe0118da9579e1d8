"""Hosts whose own name resolves to what Gloo cannot use."""

import pytest

from sparkdl.launch.checks.hostname import refused_names, useless_address


def test_what_a_name_resolves_to_is_looked_up() -> None:
    assert useless_address("localhost") == "127.x"
    assert useless_address("198.51.100.7") == ""
    assert useless_address("no such name") == "nothing"


@pytest.mark.parametrize(
    ("addresses", "refused"),
    [
        ({"a": "", "b": "127.x"}, "own name of b resolves to 127.x there"),
        ({"c": "nothing", "a": "", "b": "127.x"}, "own name of b, c resolves to 127.x or nothing there"),
        ({"a": "nothing"}, "own name of a resolves to nothing there"),
        ({"a": "127.x"}, None),
        ({"a": "", "b": ""}, None),
    ],
)
def test_names_that_ranks_cannot_find_each_other_by_are_refused(addresses, refused) -> None:
    problem = refused_names(addresses)
    assert (problem is None) if refused is None else (problem is not None and refused in problem)
