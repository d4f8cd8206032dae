"""The chart, rendered by helm and taken by a real API server. That its pods run is tested with a node."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelmill_operator.engine.kinds import WATCHED
from tests.cluster.build import program
from tests.cluster.controlplane import ControlPlane, control_plane
from tests.cluster.process import wait_until
from tests.unit.api.samples import MODEL_SERVICE, SCRIPT_JOB

CHART = Path(__file__).parents[2] / "helm" / "modelmill"
NAMESPACE = "modelmill"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:modelmill-operator"
EVERYTHING_ON: dict[str, Any] = {
    "image": {"repository": "registry.example.com/operator", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": ["pull"],
    "runtime": {"image": {"repository": "registry.example.com/runtime", "tag": "2"}, "imagePullSecrets": ["pull"]},
    "defaultRegistry": {"uri": "s3://models/team", "credentialsSecret": "s3"},
    "settings": {"lease_duration": 8, "log_json": False},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com"}],
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "podLabels": {"team": "ml"},
    "podAnnotations": {"note": "a"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "control-plane", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "serviceAccount": {"annotations": {"role": "a"}},
}
BARE: dict[str, Any] = {
    "fullnameOverride": "mill",
    "replicas": 1,
    "crds": {"install": False},
    "rbac": {"create": False},
    "serviceAccount": {"create": False, "name": "mine"},
    "report": {"tls": {"existingSecret": "mine"}},
    "networkPolicy": {"enabled": False},
}
VALUES = {"defaults": {}, "everything": EVERYTHING_ON, "bare": BARE, "two-namespaces": {"watchNamespaces": ["a", "b"]}}
every_values = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
PROMETHEUS_KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with control_plane(audit=True) as running:
        for namespace in (NAMESPACE, "a", "b"):
            running.kubectl("create", "namespace", namespace)
        running.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        # Without it no pod of `helm test` would be taken, not even by dry run.
        for name in ("modelmill-test", "mill-test"):
            running.kubectl("create", "serviceaccount", name, "-n", NAMESPACE)
        yield running


@pytest.fixture(scope="module")
def release(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The chart with its defaults, installed."""
    _helm("install", "modelmill", str(CHART), "--namespace", NAMESPACE, plane=plane)
    yield plane


def _helm(*arguments: str, plane: ControlPlane | None = None, values: dict[str, Any] | None = None) -> str:
    home = {name: "/tmp/modelmill-no-helm" for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    environment = {**os.environ, **home, "KUBECONFIG": str(plane.kubeconfig) if plane else "/dev/null"}
    command = [str(program("helm")), *arguments, *(["--values", "-"] if values is not None else [])]
    ended = subprocess.run(command, env=environment, input=json.dumps(values), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr + ended.stdout)
    return ended.stdout


def _rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    text = _helm("template", "modelmill", str(CHART), "--namespace", NAMESPACE, "--kube-version=1.36.0", values=values)
    return [document for document in yaml.safe_load_all(text) if document]


def _of(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


@every_values
def test_helm_finds_no_fault_even_when_strict(values: dict[str, Any]) -> None:
    assert "0 chart(s) failed" in _helm("lint", "--strict", str(CHART), "--kube-version=1.36.0", values=values)


@every_values
def test_a_real_api_server_takes_every_object_without_a_warning(plane: ControlPlane, values: dict[str, Any]) -> None:
    documents = [document for document in _rendered(values) if document["kind"] not in PROMETHEUS_KINDS]
    options = ("--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--force-conflicts")
    taken = plane.kubectl("apply", *options, "-f", "-", given=yaml.dump_all(documents))
    assert len(taken.splitlines()) == len(documents)


def test_a_misspelt_value_is_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match="replica"):
        _helm("template", "modelmill", str(CHART), "--kube-version=1.36.0", values={"replica": 3})


@pytest.mark.parametrize(("version", "fits"), [("1.33.9", False), ("1.34.0", True), ("v1.36.3-gke.100", True)])
def test_the_chart_wants_one_of_the_newest_three_minor_versions(version: str, fits: bool) -> None:
    command = ("template", "modelmill", str(CHART), f"--kube-version={version}")
    if fits:
        assert "kind: Deployment" in _helm(*command)
    else:
        with pytest.raises(RuntimeError, match="kubeVersion"):
            _helm(*command)


@every_values
def test_no_rule_has_a_wildcard_and_none_reads_secrets(values: dict[str, Any]) -> None:
    documents = _rendered(values)
    for role in _of(documents, "Role") + _of(documents, "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"], role["metadata"]["name"]
            assert "secrets" not in rule["resources"], role["metadata"]["name"]


def test_with_a_list_of_namespaces_only_tokens_are_reviewed_cluster_wide() -> None:
    documents = _rendered({"watchNamespaces": ["a", "b"]})
    (operator,) = [role for role in _of(documents, "ClusterRole") if "operator" in role["metadata"]["name"]]
    assert [rule["resources"] for rule in operator["rules"]] == [["tokenreviews"]]
    assert {role["metadata"]["namespace"] for role in _of(documents, "Role")} == {"a", "b", NAMESPACE}


def test_settings_become_environment_variables_that_the_operator_understands() -> None:
    (deployment,) = _of(_rendered(EVERYTHING_ON), "Deployment")
    given = {entry["name"]: entry.get("value") for entry in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert given["MODELMILL_LEASE_DURATION"] == "8"
    assert given["MODELMILL_RUNTIME_IMAGE"] == "registry.example.com/runtime:2"
    assert given["MODELMILL_REGISTRY_URI"] == "s3://models/team"


def test_the_operator_s_pods_meet_the_restricted_standard(release: ControlPlane) -> None:
    """The namespace enforces it: the ReplicaSet could not create them otherwise."""
    selector = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator", "-o", "name")
    wait_until(lambda: release.kubectl("get", "pods", *selector).count("\n") == 2, "two pods of the operator", seconds=30)


def test_the_report_certificate_survives_an_upgrade_and_names_its_service(release: ControlPlane) -> None:
    read = ("get", "secret", "modelmill-report-tls", "-n", NAMESPACE, "-o", "jsonpath={.data}")
    before = release.kubectl(*read)
    _helm("upgrade", "modelmill", str(CHART), "--namespace", NAMESPACE, plane=release, values={"settings": {"workers": 8}})
    assert release.kubectl(*read) == before
    pem = base64.b64decode(json.loads(before)["tls.crt"])
    names = subprocess.run(["openssl", "x509", "-noout", "-ext", "subjectAltName"], input=pem, capture_output=True, check=True)
    assert f"DNS:modelmill-report.{NAMESPACE}.svc".encode() in names.stdout


def _verbs(plane: ControlPlane, namespace: str) -> dict[str, set[str]]:
    """What the operator's account may do in a namespace: "group/resource" -> verbs."""
    question = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    answer = plane.kubectl("create", "--raw", path, "-f", "-", f"--as={ACCOUNT}", given=json.dumps(question))
    verbs: dict[str, set[str]] = {}
    for rule in json.loads(answer)["status"]["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                suffix = "" if not rule.get("resourceNames") else "=" + ",".join(rule["resourceNames"])
                verbs.setdefault(f"{group}/{resource}{suffix}", set()).update(rule["verbs"])
    return verbs


def test_the_operator_may_do_what_it_does_and_nothing_else(release: ControlPlane) -> None:
    verbs = _verbs(release, "a")
    for kind in WATCHED.values():
        assert {"get", "list", "watch"} <= verbs[f"{kind.group}/{kind.plural}"], kind.name
    for kind in (kind for kind in WATCHED.values() if not kind.own):
        assert {"create", "delete"} <= verbs[f"{kind.group}/{kind.plural}"], kind.name
    assert verbs["modelmill.io/trainingjobs"] == {"get", "list", "watch", "delete"}
    assert verbs["modelmill.io/modelservices"] == {"get", "list", "watch"}
    assert verbs["/pods"] == {"get", "list", "watch", "create", "delete"}
    assert "coordination.k8s.io/leases" not in verbs
    home = _verbs(release, NAMESPACE)
    assert home["coordination.k8s.io/leases=modelmill-operator"] == {"get", "update"}
    assert "patch" in home["/pods"]
    assert not {name for name in verbs | home if "secrets" in name or "exec" in name or "*" in name}


@pytest.fixture
def operator(release: ControlPlane, tmp_path: Path) -> Iterator[ControlPlane]:
    """The operator itself, as the chart's account, in the place of one of its pods."""
    selector = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")
    wait_until(lambda: release.kubectl("get", "pods", *selector, "-o", "name") != "", "a pod of the operator", seconds=30)
    pod = release.kubectl("get", "pods", *selector, "-o", "jsonpath={.items[0].metadata.name}")
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
    environment = {
        **os.environ,
        "KUBECONFIG": str(release.kubeconfig_for(ACCOUNT, groups=groups)),
        "POD_NAME": pod,
        "POD_NAMESPACE": NAMESPACE,
        "MODELMILL_LEASE_NAME": "modelmill-operator",
        "MODELMILL_HEALTH_LISTEN_PORT": "0",
        "MODELMILL_REPORT_LISTEN_PORT": "0",
        "MODELMILL_REGISTRY_URI": "s3://models/team",
    }
    with (tmp_path / "operator.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "modelmill_operator"], env=environment, stdout=log, stderr=log)
        try:
            yield release
        finally:
            process.terminate()
            process.wait(timeout=30)


def test_the_operator_s_rights_are_enough_for_what_it_does(operator: ControlPlane) -> None:
    for resource in (SCRIPT_JOB, MODEL_SERVICE):
        operator.kubectl("create", "-n", "b", "-f", "-", given=json.dumps(resource))

    def children(kind: str, of: str) -> str:
        return operator.kubectl("get", kind, "-n", "b", "-l", f"modelmill.io/{of}", "-o", "name")

    wait_until(lambda: children("pods", "trainingjob") != "", "a worker", seconds=60)
    wait_until(lambda: children("jobs", "modelservice") != "", "a resolve Job", seconds=60)
    written = ("get", "tj,msvc", "-n", "b", "-o", "jsonpath={.items[*].status.observedGeneration}")
    wait_until(lambda: operator.kubectl(*written) == "1 1", "the status of both", seconds=60)
    leader = ("get", "pods", "-n", NAMESPACE, "-l", "modelmill.io/leader=true", "-o", "name")
    wait_until(lambda: operator.kubectl(*leader) != "", "the leader's label", seconds=30)
    own = [event for event in operator.audit_events() if event["user"]["username"] == ACCOUNT]
    refused = {(e["verb"], e["objectRef"].get("resource")) for e in own if e["responseStatus"]["code"] == 403}
    assert own
    assert refused == set()


def test_users_get_their_rights_through_the_built_in_roles(release: ControlPlane) -> None:
    release.kubectl("create", "rolebinding", "editor", "--clusterrole=edit", "--user=editor", "-n", "a")
    release.kubectl("create", "rolebinding", "viewer", "--clusterrole=view", "--user=viewer", "-n", "a")

    def may(user: str, verb: str, resource: str) -> bool:
        question = {"resourceAttributes": {"namespace": "a", "verb": verb, "group": "modelmill.io", "resource": resource}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user, **question}}
        answer = release.kubectl("create", "-f", "-", "-o", "json", given=json.dumps(review))
        return bool(json.loads(answer)["status"]["allowed"])

    wait_until(lambda: may("editor", "create", "trainingjobs"), "the roles have been aggregated", seconds=20)
    wait_until(lambda: may("viewer", "list", "modelservices"), "the roles have been aggregated", seconds=20)
    assert not may("viewer", "create", "trainingjobs")
    assert not may("editor", "patch", "trainingjobs/status")


def test_uninstalling_keeps_the_resources_of_users(release: ControlPlane) -> None:
    job = {"model": {"name": "kept"}, "script": ["true"]}
    resource = {"apiVersion": "modelmill.io/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "kept"}, "spec": job}
    release.kubectl("create", "-f", "-", given=json.dumps(resource))
    _helm("uninstall", "modelmill", "--namespace", NAMESPACE, plane=release)
    assert release.kubectl("get", "trainingjobs", "-o", "name").strip() == "trainingjob.modelmill.io/kept"
    _helm("install", "modelmill", str(CHART), "--namespace", NAMESPACE, plane=release)
