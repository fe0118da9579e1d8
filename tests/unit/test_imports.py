"""What is hidden from an import is there again after it."""

import sys

import pytest

from sparkdl.imports import without_module


def test_a_module_is_absent_within_the_block_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without_module("colorsys"), pytest.raises(ImportError):
        import colorsys
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_it_comes_back_after_an_error_too(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(KeyError), without_module("colorsys"):
        raise KeyError
    import colorsys  # noqa: F401


def test_what_was_imported_before_stays():
    import json

    with without_module("json"):
        import json as again
    assert again is json
