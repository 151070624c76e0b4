"""The objects of deploy/kubernetes against Kubernetes' schemas, against the rules of its restricted
profile for pods, and against the program that they start.
"""

import os
import re
from pathlib import Path

import kubernetes_validate
import pytest
import typer.main
import yaml

from app.base.settings import Settings, variable_of
from app.cli import app
from tests.deployment import kubernetes
from tests.deployment.kubernetes import (
    COMPONENTS,
    FOLDER,
    FOREIGN,
    OVERLAYS,
    Json,
    Pod,
    needs_kubectl,
)

WRITTEN = kubernetes.written()
PODS = list(kubernetes.pods_of(WRITTEN))
OF_STORES = {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SETTINGS = {variable_of(field) for field in Settings.model_fields} | OF_STORES
# The kinds of volumes that the profile `restricted` allows.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")
CALLS_KUBERNETES = "falqon-dispatch"
OWN_IMAGES = {"falqon-api", "falqon-worker", "falqon-serving"}
REGISTRY = "registry.example.com:5000/team"
DIGEST = f"sha256:{'0' * 64}"


def render_installation(folder: Path, overlay: str, *components: str) -> list[Json]:
    """Return the objects of a kustomization that an operator keeps beside the checkout."""
    described = {
        "resources": [os.path.relpath(FOLDER / "overlays" / overlay, folder)],
        "components": [
            os.path.relpath(FOLDER / "components" / component, folder) for component in components
        ],
        "images": [{"name": name, "newName": f"{REGISTRY}/{name}"} for name in sorted(OWN_IMAGES)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(described))
    return kubernetes.render(folder)


def check_schema(described: Json) -> None:
    if described["kind"] not in FOREIGN:
        kubernetes_validate.validate(described, kubernetes.VERSION, strict=True)


def assert_restricted(pod: Pod) -> None:
    """Check what the profile `restricted` of the Pod Security Standards asks for, and a root
    folder that nobody can write to.
    """
    assert not any(name in pod.spec for name in HOST_NAMESPACES)
    assert all(set(volume) - {"name"} <= VOLUMES for volume in pod.spec["volumes"])
    security = pod.spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod.containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))


def assert_bounded(pod: Pod) -> None:
    """Check that memory and disk have a limit, and that the scheduler knows what is needed."""
    for container in pod.containers:
        resources = container["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"])
        assert {"memory", "ephemeral-storage"} <= set(resources["limits"])
    for volume in pod.spec["volumes"]:
        if "emptyDir" in volume:
            assert "sizeLimit" in volume["emptyDir"], volume["name"]


def names_of_secrets(container: Json) -> set[str]:
    """Return the secrets that a container reads: `name`, or `name/key` where it reads one key."""
    whole = {
        source["secretRef"]["name"]
        for source in container.get("envFrom", [])
        if "secretRef" in source
    }
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for variable in container.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {})
    ]
    return whole | {f"{reference['name']}/{reference['key']}" for reference in references}


@pytest.mark.parametrize(
    "described",
    [each for each in WRITTEN if each["kind"] not in FOREIGN],
    ids=lambda each: f"{each['kind']}-{each['metadata']['name']}",
)
def test_kubernetes_knows_every_field(described: Json) -> None:
    check_schema(described)


def test_every_file_is_part_of_a_kustomization() -> None:
    for path in FOLDER.rglob("*.yaml"):
        if path.name != "kustomization.yaml":
            (kustomization,) = kubernetes.read(path.parent / "kustomization.yaml")
            assert path.name in kustomization["resources"] or kubernetes.is_patch(path), path
    assert {path.name for path in (FOLDER / "components").iterdir()} == {*COMPONENTS, "monitoring"}


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_each_pod_obeys_the_restricted_profile(pod: Pod) -> None:
    assert_restricted(pod)
    assert_bounded(pod)
    assert pod.labels["app.kubernetes.io/part-of"] == "falqon"


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_a_token_for_kubernetes_is_given_to_the_dispatcher_alone(pod: Pod) -> None:
    assert pod.spec["automountServiceAccountToken"] is (pod.name == CALLS_KUBERNETES)
    accounts = [each for each in WRITTEN if each["kind"] == "ServiceAccount"]
    assert pod.spec["serviceAccountName"] in {each["metadata"]["name"] for each in accounts}
    assert all(each["automountServiceAccountToken"] is False for each in accounts)


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_a_pod_reads_the_secrets_that_it_needs(pod: Pod) -> None:
    address = {"falqon/DATABASE_URL"}
    direct = {"falqon/DIRECT_DATABASE_URL"}
    needed = {
        "falqon-api": {"falqon", "falqon-api"},
        kubernetes.MIGRATION: {"falqon", "falqon-api/FALQON_ADMIN_KEY"} | direct,
        "falqon-dispatch": address,
        "falqon-backup": address | direct,
    }
    for container in pod.containers:
        assert names_of_secrets(container) == needed.get(pod.name, {"falqon"})


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_a_pod_can_write_where_its_program_does(pod: Pod) -> None:
    for container in pod.containers:
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounts
        if container["image"] in OWN_IMAGES:
            assert "/var/lib/falqon" in mounts
        if container["image"] == "falqon-worker":  # what it compiles and remembers
            assert "/home/falqon" in mounts
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod.spec["volumes"]
        }


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_models_are_kept_on_a_disk_of_its_own(pod: Pod) -> None:
    """A worker makes room when its disk is full, and would measure the node's in an emptyDir."""
    is_worker = any(each.get("args", [])[:2] == ["falqon", "worker"] for each in pod.containers)
    (data,) = [each for each in pod.spec["volumes"] if each["name"] == "data"] or [{}]
    assert ("ephemeral" in data) is is_worker


def test_command_lines_are_those_of_the_program() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [each["args"] for pod in PODS for each in pod.containers if each["image"] in OWN_IMAGES]
    assert len(lines) == 7
    for program, name, *arguments in lines:
        assert program == "falqon"
        commands[name].make_context(name, list(arguments))


def test_workers_get_more_time_than_their_trainers() -> None:
    grace = Settings(_env_file=None).stop_grace.total_seconds()
    workers = [pod for pod in PODS if pod.containers[0].get("args", [])[:2] == ["falqon", "worker"]]
    assert len(workers) == 4
    for pod in workers:
        assert pod.spec["terminationGracePeriodSeconds"] >= 2 * grace


def test_an_api_that_ends_waits_until_no_request_comes_and_the_last_one_is_answered() -> None:
    (pod,) = [pod for pod in PODS if pod.name == "falqon-api"]
    (container,) = pod.containers
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    grace = int(container["args"][container["args"].index("--grace") + 1])
    assert pod.spec["terminationGracePeriodSeconds"] > int(seconds) + grace


def test_hanging_workers_are_restarted() -> None:
    config = kubernetes.named(WRITTEN, "ConfigMap", "falqon")
    alive = config["data"]["FALQON_ALIVE_FILE"]
    workers = [
        each
        for pod in PODS
        for each in pod.containers
        if each.get("args", [])[:2] == ["falqon", "worker"]
    ]
    assert len(workers) == 4
    for worker in workers:
        (*_, test) = worker["livenessProbe"]["exec"]["command"]
        assert alive in test
        if "--queue" in worker["args"] and "--once" not in worker["args"]:
            assert worker["startupProbe"]["exec"]["command"] == ["test", "-e", alive]


def test_settings_are_known() -> None:
    paths = (FOLDER / "base" / "config.yaml", FOLDER / "overlays" / "production" / "config.yaml")
    for path in paths:
        (config, *_) = kubernetes.read(path)
        assert set(config["data"]) <= SETTINGS


def test_probes_call_a_name_that_the_service_answers_to() -> None:
    (config,) = kubernetes.read(FOLDER / "overlays" / "production" / "config.yaml")
    settings = Settings(_env_file=None, hosts=yaml.safe_load(config["data"]["FALQON_HOSTS"]))
    (pod,) = [pod for pod in PODS if pod.name == "falqon-api"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (header,) = pod.containers[0][probe]["httpGet"]["httpHeaders"]
        assert header["name"] == "Host"
        assert header["value"] in settings.hosts
    rules = [
        rule["host"]
        for each in WRITTEN
        if each["kind"] == "Ingress"
        for rule in each["spec"]["rules"]
    ]
    assert set(rules) <= set(settings.hosts)


def test_versions_are_those_of_the_package() -> None:
    tags = {
        (image["name"], image["newTag"])
        for each in WRITTEN
        if each["kind"] == "Kustomization"
        for image in each.get("images", [])
    }
    assert tags == {(name, kubernetes.PACKAGE) for name in OWN_IMAGES}
    (job,) = [each for each in WRITTEN if each["kind"] == "Job"]
    assert job["metadata"]["name"] == kubernetes.MIGRATION
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_policies_let_through_what_the_objects_listen_at() -> None:
    policies = [each for each in WRITTEN if each["kind"] == "NetworkPolicy"]
    named_ports = {
        port["name"] for pod in PODS for each in pod.containers for port in each.get("ports", [])
    }
    used = {
        port["port"]
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
        for port in rule.get("ports", [])
    }
    assert used == named_ports
    assert kubernetes.named(policies, "NetworkPolicy", "default-deny")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_kubernetes_knows_and_restricts(overlay: str) -> None:
    rendered = kubernetes.render(FOLDER / "overlays" / overlay)
    for each in rendered:
        check_schema(each)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "falqon"
    pods = list(kubernetes.pods_of(rendered))
    assert len(pods) == {"small": 4, "production": 5, "gpu-serving": 5}[overlay]
    for pod in pods:
        assert_restricted(pod)
        assert_bounded(pod)
        for container in pod.containers:
            assert re.search(r":[0-9]", container["image"]), "a tag that is a version"


@needs_kubectl
def test_the_small_overlay_can_be_evicted_and_has_one_api_process() -> None:
    rendered = kubernetes.render(FOLDER / "overlays" / "small")
    assert kubernetes.named(rendered, "Deployment", "falqon-api")["spec"]["replicas"] == 1
    budgets = [each["spec"] for each in rendered if each["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 2
    assert all(budget["maxUnavailable"] == 1 for budget in budgets)
    assert not {each["kind"] for each in rendered} & FOREIGN


@needs_kubectl
def test_the_production_overlay_scales_spreads_watches_and_dumps() -> None:
    rendered = kubernetes.render(FOLDER / "overlays" / "production")
    api = kubernetes.named(rendered, "Deployment", "falqon-api")
    scaler = kubernetes.named(rendered, "HorizontalPodAutoscaler", "falqon-api")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "falqon-api"
    assert "replicas" not in api["spec"], "each apply would undo what the autoscaler did"
    assert len(api["spec"]["template"]["spec"]["topologySpreadConstraints"]) == 2
    assert kubernetes.named(rendered, "PodMonitor", "falqon")
    assert kubernetes.named(rendered, "PrometheusRule", "falqon")
    dump = kubernetes.named(rendered, "CronJob", "falqon-backup")
    (claim,) = [
        volume["persistentVolumeClaim"]["claimName"]
        for pod in kubernetes.pods_of([dump])
        for volume in pod.spec["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert kubernetes.named(rendered, "PersistentVolumeClaim", claim)


@needs_kubectl
def test_every_pod_with_metrics_is_monitored_and_no_other() -> None:
    rendered = kubernetes.render(FOLDER / "overlays" / "production")
    monitor = kubernetes.named(rendered, "PodMonitor", "falqon")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for pod in kubernetes.pods_of(rendered):
        assert monitor["selector"]["matchLabels"].items() <= pod.labels.items()
    config = kubernetes.named(rendered, "ConfigMap", "falqon")["data"]
    ports = {
        str(port["containerPort"])
        for pod in kubernetes.pods_of(rendered)
        for each in pod.containers
        for port in each.get("ports", [])
        if port["name"] == endpoint["port"]
    }
    assert ports == {config["FALQON_METRICS_PORT"], config["FALQON_API_METRICS_PORT"]}
    assert config["FALQON_METRICS_HOST"] == "0.0.0.0"


@needs_kubectl
def test_the_serving_overlay_answers_from_a_card() -> None:
    rendered = kubernetes.render(FOLDER / "overlays" / "gpu-serving")
    (pod,) = kubernetes.pods_of([kubernetes.named(rendered, "Deployment", "falqon-worker-cpu")])
    (container,) = pod.containers
    assert container["image"] == f"falqon-serving:{kubernetes.PACKAGE}"
    assert container["args"] == ["falqon", "worker", "--queue", "cpu"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["limits"]["ephemeral-storage"]


@needs_kubectl
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_fits_the_production_overlay_with_the_images_of_a_registry(
    component: str, tmp_path: Path
) -> None:
    rendered = render_installation(tmp_path, "production", component)
    for each in rendered:
        check_schema(each)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "falqon"
    pods = list(kubernetes.pods_of(rendered))
    for pod in pods:
        assert_restricted(pod)
    images = {each["image"] for pod in pods for each in pod.containers}
    version = kubernetes.PACKAGE
    assert images == {
        f"{REGISTRY}/falqon-api:{version}",
        f"{REGISTRY}/falqon-worker:{version}",
        "postgres:18",
    }
    names = {pod.name for pod in pods}
    assert ("falqon-worker-gpu" in names) is (component == "keda")
    if component == "keda":
        gpu = kubernetes.named(rendered, "Deployment", "falqon-worker-gpu")
        assert "replicas" not in gpu["spec"], "each apply would undo what the autoscaler did"
    if component == "kueue":
        binding = kubernetes.named(rendered, "RoleBinding", "falqon-dispatch")
        assert binding["subjects"][0]["namespace"] == "falqon"


@needs_kubectl
def test_an_image_may_be_pinned_by_its_digest(tmp_path: Path) -> None:
    page = (kubernetes.ROOT / "docs" / "kubernetes.md").read_text()
    (text,) = re.findall(r"^```yaml\n(# kustomization.yaml\n.*?)^```", page, re.M | re.S)
    described = yaml.safe_load(text)
    described["resources"] = [
        os.path.relpath(FOLDER / "overlays" / Path(path).name, tmp_path)
        for path in described["resources"]
    ]
    assert described["images"][0].pop("digest").startswith("sha256:")
    described["images"][0]["digest"] = DIGEST
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(described))
    rendered = kubernetes.render(tmp_path)
    (pod,) = kubernetes.pods_of([kubernetes.named(rendered, "Deployment", "falqon-api")])
    assert pod.containers[0]["image"] == f"registry.example.com/falqon-api@{DIGEST}"
    config = kubernetes.named(rendered, "ConfigMap", "falqon")["data"]
    assert config["STORAGE_URL"] == "s3://acme-falqon/prod"
    assert "tuning.acme.example" in config["FALQON_HOSTS"]
    hosts = [
        rule["host"]
        for each in rendered
        if each["kind"] == "Ingress"
        for rule in each["spec"]["rules"]
    ]
    assert hosts == ["tuning.acme.example"] * 2
