"""pytest-celery's own container nodes, in an order that every xdist worker agrees on: its matrix of brokers is a set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_celery import ALL_CELERY_BROKERS, CeleryTestBroker


@pytest.fixture(params=sorted(ALL_CELERY_BROKERS))
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    broker: CeleryTestBroker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()
