"""Memory for blocks that TensorFlow takes over without a copy, used again when it is done with them.

Runs in rank processes; numpy only.
"""

from __future__ import annotations

import sys

import numpy as np

__all__ = ["Buffers"]

# TensorFlow takes over an array without a copy if it begins at such an address (EIGEN_MAX_ALIGN_BYTES).
ALIGNMENT = 64


class Buffers:
    """Memory that is used again as soon as nobody holds an array in it.

    Fresh pages cost: filling a new array took up to 20 times as long as filling a used one on the machines where this
    was measured. TensorFlow holds the arrays that it took over without a copy for as long as it needs them; Python's
    count of references tells.
    """

    # References to a buffer that nobody uses: this list's, the loop's, and that of the call that counts.
    UNUSED = 3

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []

    def take(self, size: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array of `size` bytes, not filled, that begins at a multiple of ALIGNMENT."""
        for buffer in self._buffers:
            if len(buffer) >= size + ALIGNMENT and sys.getrefcount(buffer) == self.UNUSED:
                return _aligned(buffer, size).view(dtype).reshape(shape)
        buffer = np.empty(size + ALIGNMENT, dtype=np.uint8)
        self._buffers.append(buffer)
        return _aligned(buffer, size).view(dtype).reshape(shape)


def _aligned(buffer: np.ndarray, size: int) -> np.ndarray:
    offset = -buffer.ctypes.data % ALIGNMENT
    return buffer[offset : offset + size]
