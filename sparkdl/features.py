"""Export the public names of features: `from sparkdl.features import Numeric, Categorical, Text, Image, Tensor`.

Imported on the driver.
"""

from sparkdl.data.features import Categorical as Categorical
from sparkdl.data.features import Image as Image
from sparkdl.data.features import Numeric as Numeric
from sparkdl.data.features import Tensor as Tensor
from sparkdl.data.features import Text as Text

__all__ = ["Categorical", "Image", "Numeric", "Tensor", "Text"]
