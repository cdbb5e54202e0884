"""Data and system operations through real processes: pushed, run by a worker, seen."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from avtomatika.jobs import JobStatus
from avtomatika.operations.errors import PolicyError
from tests.support.operations import make_site, push
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.servers import Broker

CONFIG = """
[policy.default]
operations = ["data_*", "system_*"]
local_roots = ["{root}"]
"""


async def test_data_and_system_tasks(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "sales.csv").write_text("city,amount\nRome,10\nOslo,5\nRome,7\n")
    site = make_site(redis_broker, processes, tmp_path, CONFIG.format(root=root))
    site.orchestrator()
    site.worker("data", "system")
    async with site.engine() as engine:
        measures = {"total": {"function": "sum", "column": "amount"}}
        job = await push(
            engine,
            "data_process",
            {
                "source": {"path": "sales.csv", "types": {"amount": "integer"}},
                "steps": [{"step": "aggregate", "group_by": ["city"], "measures": measures}],
                "target": {"path": "totals.jsonl"},
            },
        )
        job = await engine.ended(job.id)
        assert job.status is JobStatus.FINISHED, job.error_message
        assert (job.result["rows_read"], job.result["rows_written"]) == (3, 2)
        totals = [json.loads(line) for line in (root / "totals.jsonl").read_text().splitlines()]
        assert totals == [{"city": "Rome", "total": 17}, {"city": "Oslo", "total": 5}]
        assert "3 rows were read" in (await engine.service.store.job_log(job.id))[-1].text

        (root / "broken.parquet").write_bytes(b"no parquet")
        job = await push(engine, "data_analyze", {"source": {"path": "broken.parquet"}})
        job = await engine.ended(job.id)
        assert job.status is JobStatus.QUARANTINED
        assert job.state_history["error_code"] == "DATA_FILE_CORRUPTED"

        job = await push(engine, "system_backup", {"paths": [str(root / "sales.csv")], "destination": "backup.tar.gz"})
        job = await engine.ended(job.id)
        assert job.status is JobStatus.FINISHED, job.error_message
        with tarfile.open(root / "backup.tar.gz") as tar:
            assert [Path(name).name for name in tar.getnames()] == ["sales.csv"]

        with (root / "huge").open("wb") as file:
            file.truncate(8 << 30)  # all of it a hole: it takes no place, and long to pack
        params = {"paths": ["huge"], "destination": "cancelled.zip", "format": "zip", "check_space": False}
        job = await push(engine, "system_backup", params)

        async def writes() -> bool:
            return any(path.name.startswith(".cancelled.zip.part-") for path in root.iterdir())

        await eventually_async(writes)
        await engine.service.orders.cancel(job.id)
        job = await engine.ended(job.id)
        assert job.status is JobStatus.CANCELLED

        async def nothing_is_left() -> bool:
            return not any("cancelled.zip" in path.name for path in root.iterdir())

        await eventually_async(nothing_is_left)

        with pytest.raises(PolicyError, match="local_roots"):
            await push(engine, "data_analyze", {"source": {"path": "/etc/passwd", "format": "csv"}})
        with pytest.raises(PolicyError, match="system_update"):
            await push(engine, "system_update", {"manager": "apt"})
