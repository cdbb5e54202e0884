"""Data between CSV, JSON, Parquet and SQL, by declared steps. See docs/operations-system.md."""

from __future__ import annotations

from avtomatika.operations.data.family import data_analyze, data_export, data_import, data_process, family

__all__ = ["data_analyze", "data_export", "data_import", "data_process", "family"]
