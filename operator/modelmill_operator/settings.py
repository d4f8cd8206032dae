"""Everything about the operator that an administrator can change, from flags or the environment.

Each field of Settings is a flag (`--lease-duration 4`) and a variable (`MODELMILL_LEASE_DURATION=4`); the flag wins. Its
text is what `--help` prints. Values are read once, at the start, and never change while the process lives. Files (the CA that
pods must trust) are read here, so that planners stay free of I/O.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any


def _setting(default: Any, text: str, *, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operator's settings. Times are seconds."""

    namespaces: tuple[str, ...] = _setting((), "namespaces to watch, separated by commas; empty watches them all")
    pod_name: str = _setting("", "name of the operator's own pod (downward API); empty when it runs outside a cluster")
    pod_namespace: str = _setting("", "namespace of the operator's own pod (downward API)")

    runtime_image: str = _setting(
        "modelmill/runtime:latest", "image of training, stage and server pods, where a resource names none"
    )
    image_pull_policy: str = _setting("IfNotPresent", "pull policy of that image", choices=("Always", "IfNotPresent", "Never"))
    image_pull_secrets: tuple[str, ...] = _setting((), "secrets to pull that image with, separated by commas")
    registry_uri: str = _setting("", "model registry of resources that name none, such as s3://bucket/prefix or pvc://claim/path")
    registry_credentials_secret: str = _setting(
        "", "secret with that registry's credentials; it must exist in the namespace of each resource"
    )

    report_url: str = _setting("", "URL at which training pods reach this operator; pods without it run, but report nothing")
    # Not `report_port`: a Service modelmill-report sets MODELMILL_REPORT_PORT=tcp://... in all pods of its namespace.
    report_listen_port: int = _setting(8443, "port that listens for the reports of training pods")
    report_cert_file: str = _setting("", "certificate of the report port (PEM); empty serves plain HTTP")
    report_key_file: str = _setting("", "private key of that certificate (PEM)")
    report_ca_file: str = _setting("", "CA that training pods verify the report port with (PEM); empty trusts the system's")
    report_audience: str = _setting("modelmill", "audience that the tokens of training pods must have")
    report_interval: float = _setting(1.0, "how often a training pod reports")
    progress_interval: float = _setting(10.0, "how often mere progress may be written to a status, at most")
    report_ca_pem: str = ""

    health_listen_port: int = _setting(8080, "port of /healthz, /readyz and /metrics")
    bind_address: str = _setting("0.0.0.0", "address that both ports bind to")

    leader_election: bool = _setting(True, "take the Lease before writing; turn off only where exactly one replica can ever run")
    lease_name: str = _setting("modelmill-operator", "name of the Lease that makes one replica the writer")
    lease_namespace: str = _setting("", "namespace of the Lease; empty uses the operator's own, or `default` outside a cluster")
    lease_duration: float = _setting(4.0, "how long a leader that fell silent keeps the Lease; whole seconds")
    lease_renew_interval: float = _setting(1.0, "how often the leader renews")
    lease_retry_interval: float = _setting(0.3, "how often a standby looks whether the Lease is free")

    workers: int = _setting(16, "resources that are reconciled at the same time")
    writes_per_second: float = _setting(300.0, "sustained limit of write requests to the API server")
    write_burst: int = _setting(300, "write requests that may go at once before that limit holds")
    request_timeout: float = _setting(30.0, "limit of one request; a write never outlives the Lease")
    retry_min: float = _setting(0.5, "first delay before a failed resource is tried again; it doubles with each failure")
    retry_max: float = _setting(60.0, "longest such delay")
    sweep_interval: float = _setting(300.0, "how often all objects are listed to find what a watch missed; +-20 %%")
    resync_interval: float = _setting(2400.0, "period in which every resource is looked at again, spread evenly")
    autoscale_interval: float = _setting(2.0, "how often server pods are asked for their load")
    watch_timeout: float = _setting(270.0, "how long one watch request lives before it is renewed; +-10 %%")
    shutdown_timeout: float = _setting(20.0, "longest graceful end; keep it below the pod's termination grace period")

    log_level: str = _setting("info", "least level that is logged", choices=("debug", "info", "warning", "error"))
    log_json: bool = _setting(True, "log one JSON object a line; plain text otherwise")

    def __post_init__(self) -> None:
        if self.lease_duration < 3 * self.lease_renew_interval:
            raise ValueError(
                f"lease_duration {self.lease_duration} is too short: "
                f"make it at least three times lease_renew_interval ({self.lease_renew_interval})"
            )
        if bool(self.report_cert_file) != bool(self.report_key_file):
            raise ValueError("report_cert_file and report_key_file belong together: give both, or none for plain HTTP")
        for name in ("workers", "writes_per_second", "write_burst", "sweep_interval", "resync_interval", "retry_min"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be more than 0")


def load(arguments: Sequence[str], *, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags over the environment over the defaults. Ends the process with a message when one is wrong."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    values: dict[str, Any] = {}
    for setting in _documented():
        text = given[setting.name] if given[setting.name] is not None else _from(environment, setting.name)
        if text is None:
            continue
        try:
            values[setting.name] = _convert(setting, text)
        except ValueError as error:
            parser.error(f"{_flag(setting.name)} {text!r}: {error}")
    try:
        if values.get("report_ca_file"):
            values["report_ca_pem"] = Path(values["report_ca_file"]).read_text()
        return Settings(**values)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelmill-operator",
        description="Runs Modelmill's operator: it turns TrainingJobs and ModelServices into pods, and keeps them as wanted.",
        epilog="Every flag can be given as a variable too: --lease-duration as MODELMILL_LEASE_DURATION. The flag wins.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=120),
    )
    for setting in _documented():
        default = ",".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        shown = f" (default: {str(default).lower() if isinstance(default, bool) else default})" if default != "" else ""
        choices = setting.metadata["choices"] or (("true", "false") if isinstance(setting.default, bool) else None)
        metavar = None if choices else {int: "N", float: "NUMBER"}.get(type(setting.default), "TEXT")
        parser.add_argument(_flag(setting.name), help=setting.metadata["help"] + shown, choices=choices, metavar=metavar)
    return parser


def _documented() -> list["Field[Any]"]:
    return [setting for setting in fields(Settings) if setting.metadata]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _from(environment: Mapping[str, str], name: str) -> str | None:
    # POD_NAME and POD_NAMESPACE are what the downward API is called by everywhere.
    return environment.get("MODELMILL_" + name.upper(), environment.get(name.upper()) if name.startswith("pod_") else None)


def _convert(setting: "Field[Any]", text: str) -> Any:
    choices = setting.metadata["choices"]
    if choices and text not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}")
    default = setting.default
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return int(text) if isinstance(default, int) else float(text) if isinstance(default, float) else text
