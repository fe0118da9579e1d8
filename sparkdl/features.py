"""The public names of features: `from sparkdl.features import Numeric, Categorical, Tensor`.

Imported on the driver.
"""

from sparkdl.data.features import Categorical as Categorical
from sparkdl.data.features import Numeric as Numeric
from sparkdl.data.features import Tensor as Tensor

__all__ = ["Categorical", "Numeric", "Tensor"]
