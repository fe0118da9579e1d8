"""Say how many examples hypothesis draws: a fifth of them in `make test`, all of them in `make soak`."""

import os

from hypothesis import settings

# `make soak` sets it.
ALL = os.environ.get("EXAMPLES") == "all"


def drawn(examples: int) -> settings:
    """Settings of a test that draws as many examples in `make soak`, without a limit of time for each."""
    return settings(max_examples=examples if ALL else -(-examples // 5), deadline=None)
