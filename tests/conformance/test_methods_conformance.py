"""Every method that the harness discovers keeps the contract."""

import pytest

from bench.plugins import registry
from bench.testing.methods import METHOD_CHECKS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", sorted(registry.methods()))
def test_method(name, check, root):
    check(registry.methods()[name].toy(), root)


def test_every_plugin_imports():
    assert registry.broken() == []
