"""Export the public names of features: `from sparkdl.features import Numeric, Categorical, Text, Image, Tensor`.

Imported on the driver.
"""

from sparkdl.data.features import Categorical, Image, Numeric, Tensor, Text

__all__ = ["Categorical", "Image", "Numeric", "Tensor", "Text"]
