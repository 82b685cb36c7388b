"""Checks of the files of infra/: each check takes the text of all files and yields its findings as sentences."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.infra import kube, machines
from tests.infra.files import (
    DOCKER,
    KUBERAY,
    LAUNCHER,
    SHELL,
    Files,
    cluster_spec,
    job_spec,
    loaded,
    parsed,
    pins,
    tag,
)

Check = Callable[[Files], Iterator[str]]
SECRET = re.compile(r"\b(?:hf_[A-Za-z0-9]{8,}|AKIA[0-9A-Z]{12,}|[A-Z_]*(?:TOKEN|SECRET_ACCESS_KEY)=[^\s$(]{8,})")
DAY_S, DRAIN_S = 86400, 300
"""Seconds per day, and the default of Resources.drain_s."""


def problems(files: Files) -> list[str]:
    """Return the findings of every check; a file that cannot be parsed is a finding."""
    found = []
    for check in CHECKS:
        try:
            found += check(files)
        except (KeyError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
            found.append(f"{check.__name__}: {type(error).__name__}: {error}")
    return found


def launcher_schema(files: Files) -> Iterator[str]:
    """Validate against Ray's schema and Ray's own config validation."""
    for name in LAUNCHER:
        yield from (f"{name}: {finding}" for finding in _refused_by_ray(files[name]))


def launcher(files: Files) -> Iterator[str]:
    """Check the parts that Ray's schema leaves open: nodes, providers, images, spot markets, ports."""
    required = {"aws": {"region", "availability_zone"}, "gcp": {"region", "availability_zone", "project_id"}}
    for name in LAUNCHER:
        config = parsed(files, name)
        nodes, docker = config["available_node_types"], config["docker"]
        head, worker = nodes[config["head_node_type"]], nodes["worker"]
        provider = config["provider"]
        if missing := required[provider["type"]] - set(provider):
            yield f"{name}: provider lacks {missing}"
        if head["resources"] != {"CPU": 0}:
            yield f"{name}: the head takes tasks: {head['resources']}"
        if worker["resources"].get("GPU", 0) < 1:
            yield f"{name}: a worker without a GPU"
        if not worker["min_workers"] == worker["max_workers"] == config["max_workers"] >= 1:
            yield f"{name}: a sweep does not scale the cluster, so the number of workers must be fixed"
        if _is_spot(head["node_config"]) or not _is_spot(worker["node_config"]):
            yield f"{name}: the head must not be spot, the workers must"
        if "RAY_AUTH_MODE=token" not in docker["run_options"] or not _mounts_token(config):
            yield f"{name}: Ray's authentication is not on"
        for node, key in (("cpu", "head_image"), ("gpu", "worker_image")):
            if not docker[key].endswith(f"/shapelake:{tag(files, node)}"):
                yield f"{name}: {key} {docker[key]} does not have the tag {tag(files, node)}"
        if "--dashboard-host=127.0.0.1" not in config["head_start_ray_commands"][-1]:
            yield f"{name}: the dashboard listens on other addresses than 127.0.0.1"


def kuberay(files: Files) -> Iterator[str]:
    """Check the structure of each manifest and the security settings and resources of each pod."""
    for name in KUBERAY:
        yield from (f"{name}: {finding}" for finding in _malformed(files[name]))
        cluster = cluster_spec(files, name)
        if cluster["rayVersion"] != pins(files)["ray"]:
            yield f"{name}: rayVersion {cluster['rayVersion']}, the pin is {pins(files)['ray']}"
        if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield f"{name}: the head takes tasks"
        if cluster != cluster_spec(files, "raycluster.yaml"):
            yield f"{name}: its cluster differs from raycluster.yaml"
        yield from (f"{name}: {finding}" for finding in _pods(cluster, files))


def kuberay_jobs(files: Files) -> Iterator[str]:
    """Check that entry points exist, that they can drain, and that jobs end."""
    for name in ("rayjob.yaml", "raycronjob.yaml"):
        job = job_spec(files, name)
        words = shlex.split(job["entrypoint"])
        if words[:3] != ["exec", "python", "-m"]:
            yield f"{name}: without exec SIGTERM reaches the shell and not the driver"
        if words[words.index("--address") + 1] != "auto" or not Path(*words[3].split(".")).with_suffix(".py").exists():
            yield f"{name}: {job['entrypoint']}"
        wait = loaded(job["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
        if float(wait) <= DRAIN_S:
            yield f"{name}: Ray kills the driver {wait} s after SIGTERM, but a drain takes {DRAIN_S} s"
        gpus, cpus = (_setting(words, f"resources.{what}") for what in ("gpus", "cpus"))
        limits = job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"][
            "limits"
        ]
        if (gpus, cpus) != (limits["nvidia.com/gpu"], limits["cpu"]):
            yield f"{name}: a task of {cpus} CPUs and {gpus} GPUs on a pod of {limits}"
    cron = parsed(files, "raycronjob.yaml")["spec"]
    job = cron["jobTemplate"]
    if job["activeDeadlineSeconds"] + job["ttlSecondsAfterFinished"] >= DAY_S:
        yield "raycronjob.yaml: runs of consecutive nights may overlap"
    if "jobs.refresh" not in job["entrypoint"]:
        yield "raycronjob.yaml: the scheduled job is not jobs.refresh"


def gpu_memory(files: Files) -> Iterator[str]:
    """Check that commands with GPUs set gpu_gb; without it a large model is neither split nor skipped, and fails."""
    worker = parsed(files, LAUNCHER[0])["available_node_types"]["worker"]
    for name, text in files.items():
        if name in ("rayjob.yaml", "raycronjob.yaml"):
            text = job_spec(files, name)["entrypoint"]
        expected = '"$gpu_gb"' if name in SHELL else worker["labels"]["vram_gb"]
        for line in text.replace("\\\n", " ").splitlines():
            words = line.split()
            if _setting(words, "resources.gpus") and (actual := _setting(words, "resources.gpu_gb")) != expected:
                yield f"{name}: gpu_gb {actual} on GPUs of {expected} GB: {line.strip()}"


def labels(files: Files) -> Iterator[str]:
    """Check that the labels of heads and workers agree in all files and are strings."""
    groups: dict[str, Any] = {}
    for name in LAUNCHER:
        nodes = parsed(files, name)["available_node_types"]
        groups |= {f"{name} {node}": nodes[node]["labels"] for node in ("head", "worker")}
    for name in KUBERAY:
        cluster = cluster_spec(files, name)
        groups[f"{name} head"] = cluster["headGroupSpec"]["labels"]
        groups[f"{name} worker"] = cluster["workerGroupSpecs"][0]["labels"]
    for role in ("head", "worker"):
        of_role = {group: found for group, found in groups.items() if group.endswith(role)}
        expected = of_role[f"{LAUNCHER[0]} {role}"]
        if set(expected) != {"market", "gpu", "vram_gb"} or not all(isinstance(v, str) for v in expected.values()):
            yield f"{LAUNCHER[0]} {role}: labels {expected}"
        yield from (f"{group}: labels {found}" for group, found in of_role.items() if found != expected)


def secrets(files: Files) -> Iterator[str]:
    for name in (*LAUNCHER, *KUBERAY, *SHELL, *DOCKER, "env.example"):
        yield from (f"{name}: a secret, {found[:6]}..." for found in SECRET.findall(files[name]))
        if re.search(r"RAY_AUTH_MODE[=: ]+disabled|mode: disabled", files[name]):
            yield f"{name}: turns Ray's authentication off"
        if "trust_remote_code" in files[name]:
            yield f"{name}: enables remote code (trust_remote_code)"
    if "\nRAY_AUTH_MODE=token\n" not in files["env.example"] or "\nRAY_AUTH_TOKEN=\n" not in files["env.example"]:
        yield "env.example: RAY_AUTH_MODE=token and an empty RAY_AUTH_TOKEN are missing"


CHECKS: tuple[Check, ...] = (
    *(launcher_schema, launcher, kuberay, kuberay_jobs, gpu_memory, labels),
    *(machines.dockerfile, machines.gpu_pins, machines.slurm, secrets),
)


@cache
def _refused_by_ray(text: str) -> tuple[str, ...]:
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = deepcopy(loaded(text))
    found = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(config)]
    try:
        validate_config(prepare_config(config))
    except (ValueError, TypeError, jsonschema.ValidationError) as error:
        found.append(str(error))
    return tuple(found)


@cache
def _malformed(text: str) -> tuple[str, ...]:
    manifest = loaded(text)
    errors = jsonschema.Draft202012Validator(kube.MANIFESTS[manifest["kind"]]).iter_errors(manifest)
    return tuple(f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors)


def _is_spot(node: dict[str, Any]) -> bool:
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    scheduling = {key: value for part in node.get("scheduling", []) for key, value in part.items()}
    return market == "spot" or scheduling.get("provisioningModel") == "SPOT"


def _mounts_token(config: dict[str, Any]) -> bool:
    return config["file_mounts"].get("/home/shapelake/.ray/auth_token") == "~/.ray/auth_token"


def _pods(cluster: dict[str, Any], files: Files) -> Iterator[str]:
    pods = [(cluster["headGroupSpec"], "cpu"), *((group, "gpu") for group in cluster["workerGroupSpecs"])]
    for group, target in pods:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        if not container["image"].endswith(f"/shapelake:{tag(files, target)}"):
            yield f"image {container['image']} does not have the tag {tag(files, target)}"
        if (
            pod["securityContext"].get("runAsNonRoot") is not True
            or pod.get("automountServiceAccountToken") is not False
        ):
            yield "a pod runs as root or mounts its service account token"
        if container["resources"]["requests"] != container["resources"]["limits"]:
            yield "requests and limits differ, but Ray treats the limits as available resources"
        if ("nvidia.com/gpu" in container["resources"]["limits"]) != (target == "gpu"):
            yield f"a GPU on the wrong pod: {container['name']}"
        if {mount["name"] for mount in container["volumeMounts"]} != {volume["name"] for volume in pod["volumes"]}:
            yield "volumeMounts and volumes differ"


def _setting(words: list[str], key: str) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"{key}=")), None)
