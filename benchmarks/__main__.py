"""`make bench`: every benchmark, one after the other. Name some to run only those: `python -m benchmarks engine slot_refill`."""

from __future__ import annotations

import importlib
import sys

ALL = {
    "engine": "Jobs of one and three steps, beside bare Celery",
    "slot_refill": "How long a free gpu slot stays empty under load",
    "dispatch": "Choosing a worker among 10 and among 1,000",
    "submit": "Jobs that the facade accepts, beside a bare handler",
    "polls": "A thousand HTTP workers that poll one facade",
    "queued": "Throughput and memory with 100,000 jobs queued, beside 1,000",
    "scp": "Transfers beside OpenSSH's scp",
    "ssh": "Commands over SSH, beside Fabric with a connection for each",
    "demo_scaling": "The demo with twice as many workers",
}


def main() -> None:
    asked = sys.argv[1:] or list(ALL)
    unknown = [name for name in asked if name not in ALL]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are: {', '.join(ALL)}")
    for name in asked:
        print(f"\n== {ALL[name]} ({name})", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        if name == "demo_scaling":
            module.main([])
        else:
            module.main()


if __name__ == "__main__":
    main()
