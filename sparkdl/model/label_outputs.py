"""Tell which of a model's outputs learned which label: by its name, by its loss, or because there is no other.

Pure. An output that has as many units as a label has classes is not for that reason one that tells them: it may be an
embedding, or what an autoencoder gives back.
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
    """The label that each output learned; None where nothing tells that it learned one.

    Args:
        names: of the outputs, as the model itself gives them.
        shapes: of their rows.
        learns: what the compiled loss of each output is for: "classes", "numbers", "unknown" (a loss of the user's
            own); None for an output without a loss.
        labels: those that the model was trained on.
        trained_here: whether `fit` trained the model, so that a loss has learned nothing but the label.
    """
    by_name = {label.name: label for label in labels}
    found = [by_name.get(name) for name in names]
    if len(labels) != 1 or any(label is not None for label in found):
        return found
    if len(names) == 1:
        return [labels[0]]
    with_loss = [place for place, loss in enumerate(learns) if loss is not None]
    takes = [place for place in with_loss if learns[place] == "classes" and output_classes(shapes[place], labels[0])]
    if not takes and len(with_loss) == 1 and (trained_here or learns[with_loss[0]] == "unknown"):
        takes = with_loss
    if len(takes) == 1:  # of several, each may have learned classes of its own
        found[takes[0]] = labels[0]
    return found
