"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import llem

MODULES = [
    module.name
    for module in pkgutil.walk_packages(llem.__path__, "llem.")
    if module.name not in ("llem.__main__", "llem.backends.pytorch", "llem.backends.loading")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)

    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    """The parametrised test above is not empty."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [
        test
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]

    assert len(examples) >= 5
