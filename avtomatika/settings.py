"""One frozen settings object: the environment, then a TOML file (AVTOMATIKA_SETTINGS, else ./avtomatika.toml), then defaults."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from avtomatika.errors import ConfigurationError


class Settings(BaseSettings):
    """Every setting, under the name of its environment variable in lower case. Seconds, unless the name says otherwise."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, env_ignore_empty=True)

    # Where things are
    redis_url: SecretStr | None = None
    redis_host: str = "127.0.0.1"
    redis_port: int = Field(6379, ge=1, le=65535)
    redis_db: int = Field(0, ge=0)
    broker_url_: SecretStr | None = Field(None, validation_alias=AliasChoices("broker_url", "BROKER_URL"))
    history_database_uri: SecretStr | None = None
    api_host: str = "127.0.0.1"
    api_port: int = Field(8080, ge=0, le=65535)
    api_tls_cert: Path | None = None
    api_tls_key: Path | None = None
    api_tls_client_ca: Path | None = None
    api_tls_client_auth: Literal["optional", "required"] = "optional"
    blueprints_dir: Path = Path("blueprints")
    workers_dir: Path = Path("workers")
    namespace: str = Field("avtomatika", pattern=r"^[A-Za-z0-9_.-]+$")
    queue_prefix: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    plain_result_backend: SecretStr | None = None

    # What this worker is
    worker_cost_per_second: float = Field(0, ge=0, allow_inf_nan=False)
    worker_resources: dict[str, Any] = Field(default_factory=dict)
    worker_installed_models: tuple[str, ...] = ()

    # Whom a worker over HTTP works for, and what it keeps
    orchestrator_url: str | None = None
    orchestrators_config: SecretStr | None = None
    worker_id: str | None = None
    worker_token: SecretStr | None = None
    worker_individual_token: SecretStr | None = None
    worker_spool_dir: Path | None = None
    worker_websocket: bool = True
    worker_health_host: str = "127.0.0.1"
    worker_health_port: int | None = Field(None, ge=0, le=65535)

    # Who may come in
    client_token: SecretStr | None = None
    clients_config_path: Path | None = None
    global_worker_token: SecretStr | None = None
    workers_config_path: Path | None = None
    schedules_config_path: Path | None = None
    operations_config_path: Path | None = None
    rate_limiting_enabled: bool = True
    rate_limit: float = Field(100, gt=0, le=1_000_000, allow_inf_nan=False)

    # Whom the world outside hears from
    public_url: str | None = Field(None, pattern=r"^https?://[^\s?#]+$")
    webhook_secret: SecretStr | None = None
    webhook_max_attempts: int = Field(12, ge=1)
    webhook_timeout_seconds: float = Field(10, gt=0)
    webhook_allow_private: bool = False
    approval_webhook_url: str | None = None

    # How long, how often, how many
    worker_timeout_seconds: float = Field(300, gt=0)
    worker_poll_timeout_seconds: float = Field(30, gt=0)
    worker_ttl_seconds: float | None = Field(None, gt=0)
    worker_health_check_interval_seconds: float = Field(60, gt=0)
    heartbeat_interval_seconds: float = Field(15, gt=0)
    job_max_retries: int = Field(3, ge=0)
    job_timeout_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    retry_backoff_seconds: float = Field(1, ge=0)
    watcher_interval_seconds: float = Field(20, gt=0)
    claim_grace_seconds: float = Field(10, gt=0)
    warm_grace_seconds: float = Field(30, ge=0)
    reputation_interval_seconds: float = Field(60, gt=0)
    cancel_grace_seconds: float = Field(10, gt=0)
    shutdown_grace_seconds: float = Field(8, ge=0)
    job_retention_seconds: float = Field(7 * 24 * 3600, gt=0)
    visibility_timeout_seconds: float = Field(180, ge=30)
    broker_timeout_seconds: float = Field(5, gt=0)
    watchdog_seconds: float = Field(30, gt=0)
    watchdog_exit_seconds: float = Field(300, ge=0)
    orchestrator_concurrency: int = Field(50, ge=1)
    max_transitions_per_step: int = Field(100, ge=1)
    history_retention_seconds: float = Field(90 * 24 * 3600, ge=0, allow_inf_nan=False)
    history_auto_upgrade: bool = False
    event_stream_length: int = Field(1_000_000, ge=1000)
    body_limit_mb: float = Field(10, gt=0)
    body_timeout_seconds: float = Field(30, gt=0)
    public_quarantine: bool = True
    debug: bool = False

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        named = os.environ.get("AVTOMATIKA_SETTINGS")
        if named and not Path(named).is_file():
            raise ConfigurationError(f"AVTOMATIKA_SETTINGS names {named}, which is not a file")
        path = Path(named or "avtomatika.toml")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    @property
    def state_url(self) -> str:
        """The Redis that holds the state, with its password: never log it, log `masked(...)` of it."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        return f"redis://{self.redis_host}:{self.redis_port}/{self.redis_db}"

    @property
    def broker_url(self) -> str:
        return self.broker_url_.get_secret_value() if self.broker_url_ is not None else self.state_url

    @property
    def broker_is_state(self) -> bool:
        """Whether broker and state are one database of one Redis, so that a commit can publish in the same call."""
        return self.broker_url.startswith("redis") and _place(self.broker_url) == _place(self.state_url)

    @property
    def public_base(self) -> str:
        """Where the facade is found from outside, without a slash at its end: PUBLIC_URL, else made of API_HOST and API_PORT."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        host = "127.0.0.1" if self.api_host in ("", "0.0.0.0", "::") else self.api_host  # noqa: S104 - only looked for
        scheme = "http" if self.api_tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.api_port}"

    @property
    def schedules_path(self) -> Path | None:
        """Where the schedules are: SCHEDULES_CONFIG_PATH, else beside CLIENTS_CONFIG_PATH, where that is set."""
        if self.schedules_config_path is not None or self.clients_config_path is None:
            return self.schedules_config_path
        return self.clients_config_path.with_name("schedules.toml")

    @property
    def heartbeat(self) -> float:
        """Seconds between heartbeats: HEARTBEAT_INTERVAL_SECONDS, at most a third of the health check's interval."""
        return min(self.heartbeat_interval_seconds, self.worker_health_check_interval_seconds / 3)

    @property
    def silence(self) -> float:
        """Seconds of silence after which a process counts as dead."""
        return max(2 * self.worker_health_check_interval_seconds, 3 * self.heartbeat)


def _place(url: str) -> tuple[str, str, int, str]:
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    return parts.scheme, "127.0.0.1" if host == "localhost" else host, parts.port or 6379, parts.path.strip("/") or "0"


def masked(url: str) -> str:
    """A URL whose password is shown as ``***``, for logs and pages."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@", 1)))


def read_settings(**overrides: Any) -> Settings:
    """Reads the settings anew; raises ConfigurationError with one line per misfit."""
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        lines = [
            f"{'.'.join(str(part) for part in e['loc']).upper().rstrip('_')}: {e['msg']}" for e in exc.errors(include_input=False)
        ]
        raise ConfigurationError("settings do not fit:\n  " + "\n  ".join(lines)) from None
    except SettingsError as exc:
        cause = exc.__cause__
        raise ConfigurationError(f"settings do not fit:\n  {exc}" + (f": {cause}" if cause else "")) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return read_settings()
