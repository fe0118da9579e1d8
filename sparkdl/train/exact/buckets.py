"""Divide gradients so that the first ones are summed over ranks while the others are still computed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LARGEST", "SMALLEST", "buckets"]

# Bytes. Below the one a bucket costs more, in agreeing on it, than it hides; beyond the other it waits for too much.
SMALLEST, LARGEST = 512 * 1024, 25 * 1024 * 1024


def buckets(sizes: Sequence[int]) -> list[list[int]]:
    """The places of gradients in the order in which they are summed, those of one operation together.

    The backward pass comes to the last layers first: buckets are filled from the end of the list, as in PyTorch's
    DistributedDataParallel, whose 25 MiB are the most here (Li et al. 2020, https://arxiv.org/abs/2006.15704, §3.2.3).
    What the first layers leave over is a bucket of its own, however small: nothing hides it, so the less the better.

    Args:
        sizes: bytes of each gradient.

    Returns:
        Places in `sizes`, each once.
    """
    enough = min(max(sum(sizes) // 4, SMALLEST), LARGEST)
    found: list[list[int]] = []
    filled = enough
    for place in reversed(range(len(sizes))):
        if filled >= enough:
            found.append([])
            filled = 0
        found[-1].append(place)
        filled += sizes[place]
    return found
