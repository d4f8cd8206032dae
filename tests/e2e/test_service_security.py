"""Who may send requests, over what, and what a server's pod may do: keys, certificates, pod security, exposure."""

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from examples.demo import kube
from tests.cluster import config
from tests.e2e import serving
from tests.e2e.serving import Version

KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def certificate(space: kube.Namespace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Secrets of both services; the certificate, which signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    name = f"guarded.{space.name}.svc"
    files = ["-keyout", "tls.key", "-out", "tls.crt"]
    subject = ["-subj", f"/CN={name[:60]}", "-addext", f"subjectAltName=DNS:{name}"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *subject]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    space("create", "secret", "tls", "certificate", f"--cert={folder / 'tls.crt'}", f"--key={folder / 'tls.key'}")
    space("create", "secret", "generic", "keys", f"--from-literal=apiKey={KEY}")
    return Path(folder, "tls.crt").read_text()


@pytest.fixture(scope="module")
def services(space: kube.Namespace, certificate: str) -> dict[str, kube.Object]:
    """One with a key and a certificate, and one that the host can reach."""
    serving.pods(space)
    serving.publish(space, Version(seed=1))
    security = {"auth": "ApiKey", "apiKeySecret": {"name": "keys"}, "tls": {"secretName": "certificate"}}
    space.apply(
        serving.service("guarded", security=security, expose={"port": 443}),
        serving.service("exposed", expose={"serviceType": "NodePort", "port": 8000}),
    )
    return {name: serving.served(space, 1, name=name) for name in ("guarded", "exposed")}


def test_only_who_has_the_key_may_ask(space: kube.Namespace, services: dict[str, kube.Object], certificate: str) -> None:
    url = services["guarded"]["status"]["url"]
    keys = {"none": {}, "wrong": {"X-API-Key": "guess"}, "bearer": {"Authorization": f"Bearer {KEY}"}, "own": {"X-API-Key": KEY}}
    requests = (serving.request(url, serving.ROW, headers=headers, ca=certificate) for headers in keys.values())
    answers = dict(zip(keys, serving.ask(space, *requests), strict=True))
    assert {name: answer.status for name, answer in answers.items()} == {"none": 401, "wrong": 401, "bearer": 200, "own": 200}
    assert answers["none"].headers["www-authenticate"] == "Bearer"
    assert "X-API-Key" in answers["none"].error
    assert KEY not in answers["wrong"].body


def test_the_certificate_is_the_one_of_the_secret(
    space: kube.Namespace, services: dict[str, kube.Object], certificate: str
) -> None:
    base = serving.base(services["guarded"])
    assert base == f"https://guarded.{space.name}.svc"
    known, unknown, plain = serving.ask(
        space,
        serving.request(f"{base}/v2/health/ready", ca=certificate),
        serving.request(f"{base}/v2/health/ready"),
        serving.request(f"{base.replace('https', 'http')}:443/v2/health/ready", seconds=10),
    )
    assert known.status == 200
    assert (unknown.status, plain.status) == (0, 0)
    assert "CERTIFICATE_VERIFY_FAILED" in unknown.body


def test_another_key_in_the_secret_counts_without_a_restart(
    space: kube.Namespace, services: dict[str, kube.Object], certificate: str
) -> None:
    request = serving.request(
        services["guarded"]["status"]["url"], serving.ROW, headers={"X-API-Key": "the-next-key"}, ca=certificate
    )
    space("patch", "secret", "keys", "-p", json.dumps({"stringData": {"apiKey": f"{KEY}\nthe-next-key"}}))
    # The kubelet brings a changed Secret to a pod every minute or so, and when the pod changes.
    space("annotate", "pod", "-l", "modelmill.io/modelservice=guarded", "looked=again")
    space.until("modelservice", "guarded", lambda _: serving.ask(space, request)[0].status == 200, seconds=180, every=3)
    assert all(
        status["restartCount"] == 0 for pod in serving.servers(space, "guarded") for status in pod["status"]["containerStatuses"]
    )


@pytest.mark.usefixtures("services")
def test_servers_run_under_the_restricted_standard_and_write_nothing(space: kube.Namespace) -> None:
    pod = serving.server(space, "exposed")
    name, spec = pod["metadata"]["name"], pod["spec"]
    assert space.get("namespace", space.name)["metadata"]["labels"].items() >= kube.RESTRICTED.items()
    assert not spec["automountServiceAccountToken"]
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    for path in ("/opt/modelmill/code/modelmill", "/modelmill/registry", "/"):
        with pytest.raises(kube.KubeError, match=r"Read-only file system|Permission denied"):
            space("exec", name, "--", "sh", "-c", f"touch {path}/mark")
    space("exec", name, "--", "sh", "-c", "touch /tmp/mark && ! ls /var/run/secrets/kubernetes.io")


@pytest.mark.usefixtures("services")
def test_a_service_comes_with_what_leads_to_its_pods_and_protects_them(space: kube.Namespace) -> None:
    pod = serving.server(space, "guarded")
    labels = pod["metadata"]["labels"].items()
    endpoint, budget, policy = (
        space.get(kind, "guarded")["spec"] for kind in ("service", "poddisruptionbudget", "networkpolicy")
    )
    assert labels >= endpoint["selector"].items()
    assert endpoint["selector"]["modelmill.io/version"] == "1"
    assert [(port["port"], port["targetPort"]) for port in endpoint["ports"]] == [(443, "http"), (8001, "grpc")]
    assert budget["maxUnavailable"] == 1
    assert labels >= budget["selector"]["matchLabels"].items()
    assert labels >= policy["podSelector"]["matchLabels"].items()
    anybody, cluster = policy["ingress"]
    assert ([port["port"] for port in anybody["ports"]], "from" in anybody) == ([8080, 8082], False)
    assert ([port["port"] for port in cluster["ports"]], cluster["from"]) == ([8081], [{"namespaceSelector": {}}])
    owners = space.get("networkpolicy", "guarded")["metadata"]["ownerReferences"]
    assert [(owner["kind"], owner["name"], owner["controller"]) for owner in owners] == [("ModelService", "guarded", True)]


@pytest.mark.usefixtures("services")
def test_a_node_port_is_reached_from_outside_the_cluster(space: kube.Namespace) -> None:
    (port,) = (port for port in space.get("service", "exposed")["spec"]["ports"] if port["name"] == "http")
    url = f"http://{config.node_address()}:{port['nodePort']}/v1/models/digits:predict"
    request = urllib.request.Request(url, json.dumps(serving.ROW).encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        assert len(json.load(answer)["predictions"]) == 1
