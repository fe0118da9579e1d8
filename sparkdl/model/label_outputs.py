"""Find which of a model's outputs learned which label: by its name, by its loss, or because it is the only one.

Pure. An output with as many units as a label has classes need not be an output of these classes: it may be an
embedding, or an autoencoder's reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparkdl.data.features import Encoder
from sparkdl.model.signature import output_classes

__all__ = ["label_outputs"]


def label_outputs(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    learns: Sequence[str | None],
    labels: Sequence[Encoder],
    *,
    trained_here: bool,
) -> list[Encoder | None]:
    """Return the label that each output learned; None for an output that is not known to have learned a label.

    Args:
        names: the names of the outputs, as the model itself gives them.
        shapes: the shape of a row of each output.
        learns: the purpose of the compiled loss of each output: "classes", "numbers", "unknown" (a user's loss); None
            for an output without a loss.
        labels: the labels that the model was trained on.
        trained_here: whether `fit` trained the model, so that a loss has learned nothing but the label.
    """
    by_name = {label.name: label for label in labels}
    found = [by_name.get(name) for name in names]
    if len(labels) != 1 or any(label is not None for label in found):
        return found
    if len(names) == 1:
        return [labels[0]]
    with_loss = [index for index, loss in enumerate(learns) if loss is not None]
    takes = [index for index in with_loss if learns[index] == "classes" and output_classes(shapes[index], labels[0])]
    if not takes and len(with_loss) == 1 and (trained_here or learns[with_loss[0]] == "unknown"):
        takes = with_loss
    if len(takes) == 1:  # several outputs may have learned different classes
        found[takes[0]] = labels[0]
    return found
