"""What the tests of the sources share."""

import ml_collections
import pytest

from vitjax.config import base_config


@pytest.fixture
def settings():
    """Makes a `config.data` with these changes."""

    def make(**changes) -> ml_collections.ConfigDict:
        data = base_config().data
        data.update(changes)
        return data

    return make
