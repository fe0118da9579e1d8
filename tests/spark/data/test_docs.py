"""The example of docs/data.md runs as printed."""

import re

import numpy as np
import pytest

import sparkdl
from paths import ROOT
from sparkdl.data.feed.feed import Feed

PAGE = (ROOT / "docs" / "data.md").read_text()


@pytest.fixture
def names(spark, tmp_path, monkeypatch):
    """What the blocks of the page define, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    defined = {"spark": spark, "sparkdl": sparkdl}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, defined)
    return defined


def test_the_features_of_the_page_are_encoded_as_it_says(names) -> None:
    dataset = names["dataset"]
    encoders = dataset.features
    assert encoders["tags"].vocabulary == ("red", "new") and encoders["job"].size == 4
    assert encoders["note"].vocabulary == ("crème", "brûlée")
    assert encoders["numbers"].mean == pytest.approx((43, 19 / 3))
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=60, seed=0)
    (block,) = feed.blocks([0])
    fields = dict(zip([group.fields[0].name for group in dataset.layout.groups], block.arrays, strict=True))
    assert len(fields["tags"]) == 60
    assert sorted(map(tuple, np.unique(fields["tags"], axis=0).tolist())) == [(0, 0, 0), (0, 1, 0), (0, 1, 1)]
    assert sorted(map(tuple, np.unique(fields["visits"], axis=0).tolist())) == [
        (0, 0, 0, 0),
        (3, 4, 0, 0),
        (5, 0, 0, 0),
    ]
    assert sorted(np.unique(fields["job"]).tolist()) == [1, 2, 3]
