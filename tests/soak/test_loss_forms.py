"""Each of fifty losses has one form: on one, two and three ranks, for 20 orders of rows, scales and dtypes."""

import pytest

import sparkdl
from loss_kinds import wrong_forms
from sparkdl import LaunchConfig


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_losss_form_depends_on_nothing_but_the_loss(workers) -> None:
    found = sparkdl.run(
        wrong_forms,
        orders=20,
        scales=(1e-6, 1e-3, 1.0, 1e3, 1e6),
        dtypes=("float64", "float32", "float16"),
        launch=LaunchConfig(num_workers=workers, local=True),
    )
    assert found == [[]] * workers
