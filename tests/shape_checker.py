"""The checker of annotations in tests: beartype, for which a number of NumPy's, or an int for a float, will do."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

NUMBERS = {int: int | np.integer, float: float | int | np.floating | np.integer}
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(NUMBERS)))
