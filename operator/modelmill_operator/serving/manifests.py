"""The children of a ModelService: a resolve Job, one Deployment for each version, and what leads traffic to its pods."""

from modelmill.contract import codec, jobfile, names, servicefile
from modelmill_operator.actions import Object, applied_hash
from modelmill_operator.api import times
from modelmill_operator.api.model_service import ModelService
from modelmill_operator.api.model_service_status import Resolved
from modelmill_operator.api.pod import Resources
from modelmill_operator.settings import Settings
from modelmill_operator.workload import pod, registry
from modelmill_operator.workload.mounts import Mounts

TEMPLATE_ANNOTATION = "modelmill.io/template-hash"
SECRETS = "/var/run/secrets/modelmill"
RESOLVE_RETRIES = 1
DRAIN_MARGIN_SECONDS = 15
"""Time for endpoints to forget a pod, before and above the time its requests may take."""
LEAST_HANG_SECONDS = 10.0
PROBE_TIMEOUT_SECONDS = 5
RESOLVE_RESOURCES = Resources(requests={"cpu": "50m", "memory": "128Mi"})


def resolve(service: ModelService, owner: Object, *, name: str, settings: Settings) -> Object:
    """Asks the registry what spec.model and spec.variant mean now."""
    mounts, spec = Mounts(), service.spec
    variant = spec.variant
    selection = jobfile.Selection(
        name=variant.name,
        tier=variant.tier,
        max_drop=float(variant.max_drop) if variant.max_drop else None,
        prefer=variant.prefer,
    )
    file = jobfile.JobFile(
        stage="resolve",
        namespace=service.metadata.namespace,
        name=service.metadata.name,
        uid=service.metadata.uid,
        model=spec.model.name,
        registry=registry.mount(spec.registry, mounts, settings=settings, read_only=True),
        resolve=jobfile.Resolve(channel=spec.model.channel, version=spec.model.version, selection=selection),
    )
    container = pod.Container(
        name="resolve",
        image=spec.image or settings.runtime_image,
        pull_policy=_pull_policy(service, settings),
        command=("python", "-m", "modelmill.stage"),
        env={names.ENV_JOB: codec.dumps(file)},
        env_from_secrets=registry.secrets(spec.registry, settings=settings),
        resources=RESOLVE_RESOURCES,
    )
    meta = pod.metadata(name, owner=owner, role="resolve", overrides=spec.pod)
    pod_spec = pod.spec(container, mounts=mounts, overrides=spec.pod, pull_secrets=settings.image_pull_secrets)
    return pod.job(meta, pod_spec, retries=RESOLVE_RETRIES)


def deployment_name(service: ModelService, version: int) -> str:
    return f"{service.metadata.name}-v{version}"


def server_template(service: ModelService, owner: Object, *, resolved: Resolved, settings: Settings) -> Object:
    """The pods of one version. Its hash tells one rollout from another."""
    spec, mounts = service.spec, Mounts()
    file = _service_file(service, resolved, mounts, settings=settings)
    container = pod.Container(
        name="server",
        image=spec.image or settings.runtime_image,
        pull_policy=_pull_policy(service, settings),
        command=("python", "-m", "modelmill.serve"),
        env={names.ENV_SERVICE: codec.dumps(file)},
        env_from_secrets=registry.secrets(spec.registry, settings=settings),
        resources=spec.pod.resources,
        ports={"http": names.PORT_SERVE, "admin": names.PORT_ADMIN, "grpc": names.PORT_GRPC},
        more=_probes(startup_seconds=_progress_deadline(service)),
    )
    labels = {names.LABEL_VERSION: str(resolved.version), "app.kubernetes.io/name": spec.model.name}
    meta = pod.metadata("", owner=owner, role=names.ROLE_SERVER, overrides=spec.pod, labels=labels)
    meta["annotations"] = {
        **meta.get("annotations", {}),
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(names.PORT_ADMIN),
        "prometheus.io/path": "/metrics",
    }
    pod_spec = pod.spec(container, mounts=mounts, overrides=spec.pod, pull_secrets=settings.image_pull_secrets)
    grace = int(times.seconds(spec.timeout)) + 2 * DRAIN_MARGIN_SECONDS
    return pod.template(meta, {**pod_spec, "terminationGracePeriodSeconds": grace})


def _probes(*, startup_seconds: int) -> Object:
    """Patient ones: a pod that answers late on a busy node must not be taken for one that does not answer."""

    def probe(path: str, *, period: int, failures: int) -> Object:
        get = {"path": path, "port": "admin"}
        return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": PROBE_TIMEOUT_SECONDS, "failureThreshold": failures}

    return {
        # While torch is imported, nothing answers: liveness is asked only after that.
        "startupProbe": probe("/readyz", period=1, failures=startup_seconds),
        "readinessProbe": probe("/readyz", period=1, failures=3),
        "livenessProbe": probe("/livez", period=5, failures=3),
    }


def _progress_deadline(service: ModelService) -> int:
    return max(1, int(times.seconds(service.spec.rollout.progress_deadline)))


def deployment(service: ModelService, owner: Object, *, version: int, template: Object) -> Object:
    """Without replicas: those are set by `Scale` alone, so that scaling never touches the template."""
    labels = {names.LABEL_VERSION: str(version)}
    meta = pod.metadata(deployment_name(service, version), owner=owner, role=names.ROLE_SERVER, labels=labels)
    meta["annotations"] = {TEMPLATE_ANNOTATION: applied_hash(template)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "selector": {"matchLabels": {**selector(service), names.LABEL_VERSION: str(version)}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": _progress_deadline(service),
            "revisionHistoryLimit": 1,
            "template": template,
        },
    }


def selector(service: ModelService) -> dict[str, str]:
    return {
        names.LABEL_MODEL_SERVICE: service.metadata.name,
        names.LABEL_UID: service.metadata.uid,
        names.LABEL_ROLE: names.ROLE_SERVER,
    }


def _service_file(service: ModelService, resolved: Resolved, mounts: Mounts, *, settings: Settings) -> servicefile.ServiceFile:
    spec = service.spec
    key_file, tls = None, None
    if spec.security.auth == "ApiKey" and (key := spec.security.api_key_secret):
        items = [{"key": key.key, "path": "key"}]
        mounts.add("api-key", source={"secret": {"secretName": key.name, "items": items}}, path=f"{SECRETS}/api-key")
        key_file = f"{SECRETS}/api-key/key"
    if spec.security.tls:
        mounts.add("tls", source={"secret": {"secretName": spec.security.tls.secret_name}}, path=f"{SECRETS}/tls")
        tls = servicefile.Tls(certificate_file=f"{SECRETS}/tls/tls.crt", key_file=f"{SECRETS}/tls/tls.key")
    timeout = times.seconds(spec.timeout)
    return servicefile.ServiceFile(
        namespace=service.metadata.namespace,
        service=service.metadata.name,
        model=spec.model.name,
        version=resolved.version,
        digest=resolved.digest,
        variant=resolved.variant,
        registry=registry.mount(spec.registry, mounts, settings=settings, read_only=True),
        engine=resolved.engine,
        channel=spec.model.channel,
        batcher=servicefile.Batcher(
            max_batch_size=spec.batcher.max_batch_size,
            max_latency_seconds=times.seconds(spec.batcher.max_latency),
            instances=spec.batcher.instances,
        ),
        container_concurrency=spec.container_concurrency,
        queue_limit=spec.queue_limit,
        timeout_seconds=timeout,
        max_request_bytes=spec.max_request_bytes,
        # Nobody waits for an answer that takes longer.
        hang_seconds=max(LEAST_HANG_SECONDS, timeout),
        drain_seconds=timeout + DRAIN_MARGIN_SECONDS,
        api_key_file=key_file,
        tls=tls,
    )


def _pull_policy(service: ModelService, settings: Settings) -> str | None:
    return service.spec.image_pull_policy or (None if service.spec.image else settings.image_pull_policy)
