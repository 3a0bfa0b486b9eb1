"""Every docstring's example, collected by import: collecting by path would import the mapped packages twice."""

import doctest
import importlib

import pytest

from tests.test_imports import FILES, module_name

MODULES = [module_name(file) for files in FILES.values() for file in files]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    module = importlib.import_module(name)
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in finder.find(module, name, globs=dict(vars(module))):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
