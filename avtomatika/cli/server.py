"""`avtomatika server`."""

from __future__ import annotations

import click

from avtomatika.settings import get_settings


@click.command()
@click.option("--host", help="Where to listen [API_HOST, 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port [API_PORT, 8080].")
def server(host: str | None, port: int | None) -> None:
    """Run the HTTP facade. It refuses to start without a token (CLIENT_TOKEN, CLIENTS_CONFIG_PATH)."""
    from avtomatika.api.app import serve
    from avtomatika.logs import configure

    settings = get_settings()
    configure(settings)
    serve(settings, host or settings.api_host, settings.api_port if port is None else port)
