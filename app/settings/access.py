"""Where the server listens, and who may use it."""

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import model_validator

from app.settings.fields import Fields
from app.settings.keys_file import AccessKey, unnamed_keys
from app.settings.knobs import Knob
from app.settings.types import ApiKey, Host, Origin, Port, api_keys, comma_lists, existing_file


class Access(Fields):
    """The settings of network and access; `named_keys` are those of `api_keys_file`."""

    host: Annotated[Host, Knob("Network and access", "Address to listen at.", "HOST", ("host", "server_host"))] = (
        "127.0.0.1"
    )
    port: Annotated[
        Port, Knob("Network and access", "Port to listen at; 0 for any free one.", "N", ("port", "server_port"))
    ] = 8000
    api_key: Annotated[
        tuple[ApiKey, ...],
        api_keys,
        Knob(
            "Network and access",
            "Key that clients must send; several may be given.",
            "KEY",
            default="none, everybody is served",
            example="replace-with-a-long-random-key",
            secret=True,
        ),
    ] = ()
    api_keys_file: Annotated[
        Path | None,
        Knob(
            "Network and access",
            "YAML file of named keys, each with limits of its own if it is to have some (docs/access.md).",
            "PATH",
            default="none",
            example="keys.yaml",
        ),
    ] = None
    allow_unauthenticated: Annotated[
        bool, Knob("Network and access", "Listen at an address that others can reach without asking for a key.")
    ] = False
    allowed_origins: Annotated[
        tuple[Origin, ...],
        comma_lists,
        Knob(
            "Network and access",
            "Web pages that may call the server (CORS); several may be given.",
            "ORIGIN",
        ),
    ] = ("*",)
    ssl_certfile: Annotated[
        Path | None,
        existing_file,
        Knob(
            "Network and access",
            "Certificate chain (PEM): with it the server speaks HTTPS.",
            "PATH",
            default="none, plain HTTP",
            example="server.crt",
        ),
    ] = None
    ssl_keyfile: Annotated[
        Path | None,
        existing_file,
        Knob(
            "Network and access",
            "The certificate's private key (PEM, without a password).",
            "PATH",
            default="in the file of the certificate",
            example="server.key",
        ),
    ] = None
    open_metrics: Annotated[
        bool, Knob("Network and access", "Answer GET /metrics without a key, for a collector that has none.")
    ] = False
    named_keys: tuple[AccessKey, ...] = ()

    @property
    def access_keys(self) -> tuple[AccessKey, ...]:
        """Every key that opens the server; none where it is open to everybody."""
        return (*self.named_keys, *unnamed_keys(self.api_key))

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        owners: dict[str, str] = {}
        for one in self.access_keys:
            other = owners.setdefault(one.key.get_secret_value(), one.name)
            if other != one.name:
                raise ValueError(f"{other} and {one.name} are the same API key: give each client a key of its own")
        return self

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.access_keys or self.allow_unauthenticated or _is_loopback(self.host):
            return self
        raise ValueError(
            f"host {self.host} can be reached from other machines: set an API key with --api-key or API_KEY,"
            " or accept that everybody is served with --allow-unauthenticated or ALLOW_UNAUTHENTICATED=true"
        )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
