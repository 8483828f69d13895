"""`deploy/` and the Dockerfile match the code: import paths, ports, keys, names, secrets, files."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as as_serve_does
from ray.serve.schema import ServeDeploySchema

from baton.config.file import load_config
from services import environment
from services.host import haproxy, render
from services.host.ports import INSTANCES, PREFERRED_PORTS
from services.names import CONTROL, application, route

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERAY = DEPLOY / "kuberay"
OVERLAYS = ("cpu", "gpu")
CODE = ("baton", "services", "training")

HEALTH = {"/api/healthz": 52365, "/-/healthz": 8000}
"""Ports of the health checks, by path: of a Ray node, and of its Serve proxy."""

overlays = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def kustomized(overlay: str) -> tuple[dict[str, Any], ...]:
    """Return the resources that `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; with its kustomize this test renders the overlays")
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERAY / "overlays" / overlay)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [resource for resource in kustomized(overlay) if resource["kind"] == kind]


def service(overlay: str) -> dict[str, Any]:
    (found,) = of_kind(overlay, "RayService")
    spec: dict[str, Any] = found["spec"]
    return spec


def groups(overlay: str) -> dict[str, dict[str, Any]]:
    """Return the head group and the worker groups, by name."""
    cluster_spec = service(overlay)["rayClusterConfig"]
    return {"head": cluster_spec["headGroupSpec"]} | {group["groupName"]: group for group in cluster_spec["workerGroupSpecs"]}


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    return {name: group["template"]["spec"] for name, group in groups(overlay).items()}


def containers(overlay: str) -> dict[str, dict[str, Any]]:
    """Return the Ray container of each group."""
    return {name: pod["containers"][0] for name, pod in pods(overlay).items()}


def every(value: Any, key: str) -> Iterator[Any]:
    """Yield all values of ``key`` at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from every(item, key)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from every(item, key)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def image_environment() -> dict[str, str]:
    """Return the environment variables of the image's last stage."""
    last = dockerfile().rpartition("\nFROM ")[2]
    (line,) = re.findall(r"^ENV (.*)$", last, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def known_variables() -> set[str]:
    """Return all BATON_… variables in the code."""
    sources = (path.read_text() for package in CODE for path in (ROOT / package).rglob("*.py"))
    return {name for source in sources for name in re.findall(r"\bBATON_[A-Z_]+\b", source)}


# --- Serve config --------------------------------------------------------------------------------------------------------


@overlays
def test_an_overlay_is_rendered_from_its_baton_yaml(overlay: str) -> None:
    directory = KUBERAY / "overlays" / overlay
    wanted = render.files(render.portable(directory / "baton.yaml"))
    assert render.outdated(wanted, directory) == [], "`make render` brings them up to date"


@overlays
def test_serve_finds_every_builder_and_each_takes_its_arguments(overlay: str) -> None:
    config = yaml.safe_load(service(overlay)["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    for found in config["applications"]:
        as_serve_does(import_attr(found["import_path"]), found["args"])


@overlays
def test_every_model_of_the_file_has_its_application_and_route(overlay: str) -> None:
    config = load_config(KUBERAY / "overlays" / overlay / "baton.yaml", {})
    found = {one["name"]: one["route_prefix"] for one in yaml.safe_load(service(overlay)["serveConfigV2"])["applications"]}
    assert found == {CONTROL: "/"} | {application(model.name): route(model.name) for model in config.models}


# --- pods ----------------------------------------------------------------------------------------------------------------


@overlays
def test_kubernetes_knows_every_field_of_its_own_resources_and_of_rays_pods(overlay: str) -> None:
    own = [one for one in kustomized(overlay) if one["apiVersion"] in ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1")]
    assert len(own) >= 8
    templates = {name: group["template"] for name, group in groups(overlay).items()}
    rays = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}, "spec": template["spec"]}
        for name, template in templates.items()
    ]
    for resource in (*own, *rays, *yaml.safe_load_all((KUBERAY / "secret.example.yaml").read_text())):
        kubernetes_validate.validate(resource, "1.34", strict=True)


@overlays
def test_head_and_workers_get_the_environment_that_ray_needs_everywhere(overlay: str) -> None:
    maps = {found["metadata"]["name"]: found["data"] for found in of_kind(overlay, "ConfigMap")}
    for name, container in containers(overlay).items():
        (source,) = container["envFrom"]
        data = maps[source["configMapRef"]["name"]]
        assert data.items() >= environment.NODE_VARIABLES.items(), name
        assert data["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert data[haproxy.BINARY] == haproxy.IN_IMAGE


def test_the_image_has_the_program_that_pods_start_as_haproxy() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[Path(haproxy.IN_IMAGE).name] == f"{haproxy.__name__}:{haproxy.main.__name__}"
    assert f"RUN python -m venv {Path(haproxy.IN_IMAGE).parents[1]}\n" in (ROOT / "Dockerfile").read_text()


@overlays
def test_every_ray_pod_has_the_database_and_the_storage(overlay: str) -> None:
    maps = {found["metadata"]["name"]: found["data"] for found in of_kind(overlay, "ConfigMap")}
    for name, container in containers(overlay).items():
        given = {entry["name"] for entry in container["env"]}
        for source in container["envFrom"]:
            given |= maps[source["configMapRef"]["name"]].keys()
        assert given >= set(environment.STORE_VARIABLES.values()), name
        assert {variable for variable in given if variable.startswith("BATON_")} <= known_variables(), name


@overlays
def test_secrets_are_referenced_only_and_the_example_has_all_of_them(overlay: str) -> None:
    example = yaml.safe_load_all((KUBERAY / "secret.example.yaml").read_text())
    offered = {secret["metadata"]["name"]: set(secret["stringData"]) for secret in example}
    assert of_kind(overlay, "Secret") == []
    wanted = [*every(kustomized(overlay), "secretKeyRef"), *every(kustomized(overlay), "credentials")]
    assert wanted
    for reference in wanted:
        assert reference["key"] in offered[reference["name"]], reference


@overlays
def test_ports_of_pods_probes_and_monitors_are_those_that_serve_and_ray_listen_on(overlay: str) -> None:
    serve_port = yaml.safe_load(service(overlay)["serveConfigV2"])["http_options"]["port"]
    named = {"serve": serve_port, "metrics": 8080, "haproxy": PREFERRED_PORTS["haproxy_metrics"]}
    for name, container in containers(overlay).items():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports.items() >= named.items(), name
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[kind]["httpGet"]
            assert get["port"] == HEALTH[get["path"]], (name, kind)
    for monitor in of_kind(overlay, "PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert endpoint["port"] in named


@overlays
def test_a_worker_without_a_proxy_is_not_ready(overlay: str) -> None:
    for name, container in containers(overlay).items():
        path = container["readinessProbe"]["httpGet"]["path"]
        assert path == ("/api/healthz" if name == "head" else "/-/healthz"), name


@overlays
def test_the_head_runs_no_work_and_what_it_knows_outlives_it(overlay: str) -> None:
    assert groups(overlay)["head"]["rayStartParams"]["num-cpus"] == "0"
    fault_tolerance = service(overlay)["rayClusterConfig"]["gcsFaultToleranceOptions"]
    host, _, port = fault_tolerance["redisAddress"].partition(":")
    (redis,) = [found for found in of_kind(overlay, "Service") if found["metadata"]["name"] == host]
    assert [str(one["port"]) for one in redis["spec"]["ports"]] == [port]
    assert fault_tolerance["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "baton-secrets"


@overlays
def test_training_scales_to_zero_and_serving_does_not(overlay: str) -> None:
    found = groups(overlay)
    assert service(overlay)["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    assert (found["training"]["minReplicas"], found["training"]["replicas"]) == (0, 0)
    assert found["serving"]["minReplicas"] >= 2


def test_the_labels_that_gpu_runs_ask_for_are_those_of_a_group_with_gpus() -> None:
    config = load_config(KUBERAY / "overlays/gpu/baton.yaml", {})
    for model in config.models:
        assert model.training.device == "gpu"
        fitting = [
            group
            for group in groups("gpu").values()
            if model.training.nodes and model.training.nodes.items() <= group.get("labels", {}).items()
        ]
        assert [group["groupName"] for group in fitting] == ["training"]
        assert fitting[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@overlays
def test_serving_nodes_hold_the_replicas_that_the_file_asks_for(overlay: str) -> None:
    config = load_config(KUBERAY / "overlays" / overlay / "baton.yaml", {})
    cpus = sum(model.serving.replicas * model.serving.cpus for model in config.models)
    assert all(model.serving.cpus > 0 for model in config.models), "a replica that reserves nothing may land on the head"
    for model in config.models:
        fitting = [
            name for name, group in groups(overlay).items() if model.serving.nodes.items() <= group.get("labels", {}).items()
        ]
        assert fitting == ["serving"], "elsewhere it would keep a node of training alive"
    per_pod = int(containers(overlay)["serving"]["resources"]["limits"]["cpu"])
    assert cpus <= per_pod * groups(overlay)["serving"]["minReplicas"]


@overlays
def test_pods_run_as_the_images_user_on_a_read_only_root_and_get_time_to_end(overlay: str) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", dockerfile(), re.MULTILINE)
    for name, pod in pods(overlay).items():
        security = pod["securityContext"]
        assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user, name
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["terminationGracePeriodSeconds"] >= 60
        container = pod["containers"][0]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= volumes
        for variable in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "BATON_STATE"):
            assert any(Path(image_environment()[variable]).is_relative_to(mount) for mount in mounts), (name, variable)
        assert str(INSTANCES) in mounts


@overlays
def test_only_predictions_and_metrics_can_be_reached_from_outside_the_cluster(overlay: str) -> None:
    labels = [group["template"]["metadata"]["labels"] for group in groups(overlay).values()]
    opened: dict[str, set[int]] = {}
    for policy in of_kind(overlay, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]["matchLabels"]
        if not all(selector.items() <= one.items() for one in labels):
            continue
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        for rule in policy["spec"]["ingress"]:
            own = [source.get("podSelector", {}).get("matchLabels") == selector for source in rule["from"]]
            if not all(own):
                opened[policy["metadata"]["name"]] = {port["port"] for port in rule["ports"]}
    assert opened == {
        "baton-clients": {8000},
        "baton-monitoring": {8000, 8080, 9101},
        "baton-operator": {8000, 8265, 52365},
    }


@overlays
def test_a_drain_leaves_a_serving_node(overlay: str) -> None:
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    chosen = budget["spec"]["selector"]["matchLabels"]
    matching = [
        name for name, group in groups(overlay).items() if chosen.items() <= group["template"]["metadata"]["labels"].items()
    ]
    assert matching == ["serving"]
    assert 1 <= budget["spec"]["minAvailable"] < groups(overlay)["serving"]["minReplicas"]


# --- the image -----------------------------------------------------------------------------------------------------------


def test_everything_that_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(), re.MULTILINE) for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed, source


def test_the_dockerfile_installs_extras_that_exist_and_the_pinned_torch() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", dockerfile(), re.MULTILINE)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    (torch,) = re.findall(r"^ARG TORCH=(.*)$", dockerfile(), re.MULTILINE)
    assert torch in project["dependencies"]
    assert torch in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_images_variables_are_ones_that_the_code_reads() -> None:
    assert {name for name in image_environment() if name.startswith("BATON_")} <= known_variables()


def test_the_images_own_configuration_is_valid_and_finds_its_data() -> None:
    config = load_config(DEPLOY / "baton.yaml", image_environment())
    assert config.http.host == "0.0.0.0"
    for model in (
        *config.models,
        *(m for name in OVERLAYS for m in load_config(KUBERAY / f"overlays/{name}/baton.yaml", {}).models),
    ):
        for file in (model.data.train, model.data.holdout):
            inside = Path(str(file)).relative_to("/opt/baton/samples")
            assert (ROOT / "baton" / "samples" / inside).is_file(), file


# --- compose -------------------------------------------------------------------------------------------------------------


def test_compose_mounts_files_that_exist_and_declares_its_volumes() -> None:
    compose = read(DEPLOY / "compose.yaml")
    for name, one in compose["services"].items():
        for volume in one.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"


def test_every_variable_of_compose_is_in_the_example_which_holds_no_secret() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    lines = [line for line in (DEPLOY / "compose.env.example").read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    assert set(re.findall(r"\$\{(\w+):\?", text)) == example.keys()
    assert set(example.values()) == {"change-me"}
    others = set(re.findall(r"\$\{(\w+)", text)) - example.keys()
    assert others == {"TORCH_INDEX"}, "without a value compose must stop, not start with an empty password"


def test_compose_gives_baton_a_read_only_root_and_writes_where_the_image_does() -> None:
    baton = read(DEPLOY / "compose.yaml")["services"]["baton"]
    assert {name for name in baton["environment"] if name.startswith("BATON_")} <= known_variables()
    assert baton["read_only"] is True
    writable = [Path(volume.split(":")[1]) for volume in baton["volumes"] if not volume.endswith(":ro")]
    writable += [Path(entry.split(":")[0]) for entry in baton["tmpfs"]]
    for variable in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "BATON_STATE"):
        assert any(Path(image_environment()[variable]).is_relative_to(place) for place in writable), variable
    assert INSTANCES in writable


def test_compose_publishes_the_service_on_loopback_from_a_network_that_outlives_a_restart_of_baton() -> None:
    services = read(DEPLOY / "compose.yaml")["services"]
    for name in ("baton", "prometheus"):
        assert services[name]["network_mode"] == "service:network"
    published = {port.rpartition(":")[2] for port in services["network"]["ports"]}
    assert str(load_config(DEPLOY / "baton.yaml", {}).http.port) in published
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one.get("ports", []))


def test_prometheus_asks_the_ports_that_a_lone_instance_opens() -> None:
    config = read(DEPLOY / "prometheus/prometheus.yml")
    port = load_config(DEPLOY / "baton.yaml", {}).http.port
    asked = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert asked == {
        "baton-control": [f"127.0.0.1:{port}"],
        "baton-nodes": [f"127.0.0.1:{PREFERRED_PORTS['metrics']}"],
        "baton-haproxy": [f"127.0.0.1:{PREFERRED_PORTS['haproxy_metrics']}"],
    }


@overlays
def test_kubernetes_and_compose_call_the_targets_by_the_same_names(overlay: str) -> None:
    config = read(DEPLOY / "prometheus/prometheus.yml")
    endpoints = [one for monitor in of_kind(overlay, "PodMonitor") for one in monitor["spec"]["podMetricsEndpoints"]]
    assert {rule["replacement"] for one in endpoints for rule in one["relabelings"] if rule["targetLabel"] == "job"} == {
        job["job_name"] for job in config["scrape_configs"]
    }


# --- rules -------------------------------------------------------------------------------------------------------------


def test_the_rules_of_the_prometheus_operator_are_those_of_prometheus() -> None:
    wanted = render.rule_file(DEPLOY / "prometheus/rules.yml")
    assert render.outdated(wanted, KUBERAY / "base") == [], "`make render` brings them up to date"
