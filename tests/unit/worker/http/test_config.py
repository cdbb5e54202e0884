"""What a worker over HTTP is told, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from avtomatika.errors import ConfigurationError
from avtomatika.settings import read_settings
from avtomatika.worker.http import read_config
from avtomatika.worker.http.config import Config, Orchestrator
from avtomatika.worker.http.rotation import Rank

SECRET = "s3cret-token"
URL = "https://orchestrator.example"


def _read(settings: dict[str, Any], **arguments: Any) -> Config:
    return read_config(read_settings(**settings), "gpu worker", **arguments)


def test_one_orchestrator_out_of_the_settings() -> None:
    config = _read({"orchestrator_url": URL + "/", "worker_token": SECRET, "worker_id": "box-1"})

    assert config.orchestrators == (Orchestrator(URL, SECRET, Rank(1, 1)),)
    assert (config.worker_id, config.family, config.health_port) == ("box-1", None, None)


def test_the_own_token_comes_before_that_of_all() -> None:
    config = _read({"orchestrator_url": URL, "worker_token": "of-all", "worker_individual_token": SECRET})
    assert config.orchestrators[0].token == SECRET


def test_arguments_come_before_settings() -> None:
    settings = {"orchestrator_url": "http://other", "worker_token": "other", "worker_id": "other", "orchestrators_config": "[]"}
    config = _read(settings, urls=[URL], token=SECRET, worker_id="mine")

    assert config.orchestrators == (Orchestrator(URL, SECRET),)
    assert config.worker_id == "mine"


def test_several_out_of_the_environment() -> None:
    text = json.dumps([{"url": URL, "priority": 2, "weight": 3, "token": SECRET}, {"url": "http://127.0.0.1:1"}])
    config = _read({"orchestrators_config": text, "worker_token": "of-all", "orchestrator_url": "http://other"})

    assert config.orchestrators == (Orchestrator(URL, SECRET, Rank(2, 3)), Orchestrator("http://127.0.0.1:1", "of-all"))


def test_the_name_of_a_process_without_one() -> None:
    config = _read({"orchestrator_url": URL, "worker_token": SECRET})
    assert config.family is not None
    assert config.family.startswith("gpu-worker-")
    assert config.worker_id == f"{config.family}{os.getpid()}"


@pytest.mark.parametrize(
    ("settings", "arguments", "says"),
    [
        ({}, {"token": SECRET}, "set ORCHESTRATOR_URL"),
        ({"orchestrators_config": "[]"}, {"token": SECRET}, "set ORCHESTRATOR_URL"),
        ({"orchestrator_url": URL}, {}, "there is no token for https://orchestrator.example: set WORKER_INDIVIDUAL_TOKEN"),
        ({"orchestrator_url": URL, "worker_token": "  "}, {}, "there is no token"),
        ({"orchestrators_config": "{"}, {}, "ORCHESTRATORS_CONFIG is not JSON"),
        ({"orchestrators_config": f'[{{"url": "{URL}", "tokn": "{SECRET}"}}]'}, {}, r"0\.tokn: Extra inputs"),
        ({"orchestrators_config": f'{{"token": "{SECRET}"}}'}, {}, "should be a valid list"),
        ({"orchestrators_config": f'[{{"url": "{URL}", "weight": 0, "token": "{SECRET}"}}]'}, {}, r"0\.weight"),
        ({}, {"urls": [URL, URL + "/"], "token": SECRET}, "named twice"),
        ({}, {"urls": [URL], "orchestrators": [{"url": URL}], "token": SECRET}, "not both"),
        ({}, {"urls": ["orchestrator.example"], "token": SECRET}, "write https://host"),
        ({}, {"urls": ["ftp://x"], "token": SECRET}, "write https://host"),
        ({}, {"urls": [f"https://user:{SECRET}@host"], "token": "t"}, "holds a user or password"),
        ({}, {"urls": [URL], "token": SECRET + "\nX: y"}, "no header can carry"),
        ({}, {"urls": [URL], "token": SECRET, "worker_id": "../up"}, "does not fit"),
        ({}, {"urls": [URL], "token": SECRET, "worker_id": ".."}, "does not fit"),
    ],
)
def test_what_does_not_fit_names_the_fix_and_no_secret(settings: dict[str, Any], arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        _read(settings, **arguments)
    assert SECRET not in str(raised.value)


def test_a_token_is_in_no_repr() -> None:
    assert SECRET not in repr(_read({"orchestrator_url": URL, "worker_token": SECRET}))


def test_it_needs_no_celery_and_no_redis() -> None:
    code = (
        "import sys; import avtomatika.worker.http; "
        "print([name for name in ('celery', 'redis', 'avtomatika.celery') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
