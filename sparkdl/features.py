"""Export the public names of features: `from sparkdl.features import Numeric, Categorical, Categories, …`.

Imported on the driver.
"""

from sparkdl.data.features import Categorical, Categories, Image, Numeric, Tensor, Text

__all__ = ["Categorical", "Categories", "Image", "Numeric", "Tensor", "Text"]
