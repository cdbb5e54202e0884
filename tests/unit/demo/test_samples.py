"""Where the samples come from, and what is said where they are missing."""

from __future__ import annotations

import importlib.util

import pytest
from PIL import Image

from avtomatika.demo import examples_dir
from avtomatika.demo import samples as module
from avtomatika.errors import ConfigurationError


def test_the_samples_are_real_photographs(samples) -> None:
    assert len(samples) >= 8
    for path in samples:
        with Image.open(path) as image:
            assert min(image.size) >= 300
            low, high = image.convert("L").getextrema()
            assert high - low > 60


def test_without_the_extra_the_error_names_it(monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in ("skimage", "imagehash") else real(name))
    with pytest.raises(ConfigurationError, match=r"pip install 'avtomatika\[demo\]'"):
        module.photographs()
    with pytest.raises(ConfigurationError, match=r"needs imagehash.*pip install 'avtomatika\[demo\]'"):
        module.require_extra()


def test_the_examples_are_found() -> None:
    assert (examples_dir() / "workers" / "report.html.j2").is_file()
