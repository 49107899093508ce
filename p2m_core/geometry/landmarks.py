"""The 68 landmarks in iBUG order, see docs/conventions.md."""

from __future__ import annotations

import numpy as np

# For each landmark, the one on the other side of the face: its place in a left-right mirrored image.
MIRROR_68 = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip

# Pairs of the upper and the lower lids and inner lips: how wide eyes and mouth are open.
UPPER, LOWER = [37, 38, 43, 44, 61, 62, 63], [41, 40, 47, 46, 67, 66, 65]
