"""Fifty losses have the form that they have, and Keras' list of row losses is right."""

import sparkdl
from groups import local_group
from loss_kinds import loss_kinds, wrong_forms


def forms() -> tuple[int, list[str], set[str], set[str]]:
    import keras

    from sparkdl.train.exactness.functions import ROW_LOSSES

    kinds = loss_kinds()
    by_row = {name for name, kind in kinds.items() if kind[0] == "rows" and hasattr(keras.losses, name)}
    fns = {name: getattr(getattr(keras.losses, name)(), "fn", None) for name in by_row}
    known = {name for name, fn in fns.items() if any(fn is one for one in ROW_LOSSES)}
    wrong = wrong_forms(orders=2, scales=(1e-6, 1.0, 1e6), dtypes=("float32",))
    return len(kinds), wrong, by_row - known, {one.__name__ for one in ROW_LOSSES} - {f.__name__ for f in fns.values()}


def test_losses_have_the_form_that_they_have() -> None:
    ((count, wrong, untold, unproved),) = sparkdl.run(forms, launch=local_group(1))
    assert count >= 50 and wrong == []
    assert untold == {"CategoricalGeneralizedCrossEntropy"} and unproved == set()
