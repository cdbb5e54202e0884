"""The interactive page in a real browser: every call is there, it loads nothing from elsewhere, and a call can be made in it."""

from __future__ import annotations

import json

import pytest

from tests.support.browser import opened
from tests.support.processes import REPOSITORY, Facade, Processes
from tests.support.requirements import require
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.chromium, pytest.mark.timeout(240)]

CREATE = "#operations-blueprints-create_job_of_hello"


@pytest.fixture
def facade(processes: Processes, redis_server: RedisServer, namespace: str) -> Facade:
    require("chromium")
    env = {"REDIS_URL": redis_server.url, "NAMESPACE": namespace, "BLUEPRINTS_DIR": str(REPOSITORY / "blueprints")}
    return processes.make(Facade, env=env)


async def test_the_page_shows_every_call_and_makes_one(processes: Processes, facade: Facade) -> None:
    async with opened(processes, f"{facade.url}/_public/docs") as page:
        assert await page.until("document.querySelectorAll('.opblock').length")
        document = await page.evaluate("fetch('openapi.json').then(answer => answer.json())")
        described = {
            f"operations-{operation['tags'][0].replace(' ', '_')}-{operation['operationId']}"
            for path in document["paths"].values()
            for operation in path.values()
        }
        shown = set(await page.evaluate("[...document.querySelectorAll('.opblock')].map(block => block.id)"))
        assert shown == described
        assert CREATE.removeprefix("#") in shown

        await page.evaluate(f"window.ui.preauthorizeApiKey('clientToken', {json.dumps(facade.token)})")
        await page.evaluate(f"document.querySelector('{CREATE} .opblock-summary-control').click()")
        await page.until(f"document.querySelector('{CREATE} textarea')?.value")
        await page.evaluate(f"document.querySelector('{CREATE} .execute').click()")
        status = await page.until(
            f"document.querySelector('{CREATE} .live-responses-table tbody .response-col_status')?.innerText"
        )
        assert status.split()[0] == "202", status
        answer = await page.evaluate(f"document.querySelector('{CREATE} .live-responses-table').innerText")
        assert '"accepted"' in answer

        assert page.complaints == []
        assert page.requested
        assert [url for url in page.requested if not url.startswith((f"{facade.url}/", "data:"))] == []
