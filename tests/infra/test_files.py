"""The files of infra/ pass every check, and every check detects a mutation."""

import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.infra.checks import problems
from tests.infra.files import KUBERAY, parsed, shipped

FILES = shipped()

MUTATIONS = [
    ("cluster.aws.yaml", "min_workers: 4", "min_wrkers: 4", "min_wrkers"),
    ("cluster.aws.yaml", "head_node_type: head", "head_node_type: haed", "haed"),
    ("cluster.aws.yaml", "  region: us-east-1\n", "", "region"),
    ("cluster.aws.yaml", "MarketType: spot", "MarketType: sport", "spot"),
    ("cluster.aws.yaml", "{CPU: 0}", "{CPU: 2}", "head takes tasks"),
    ("cluster.aws.yaml", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "authentication"),
    ("cluster.aws.yaml", "  /home/shapelake/.ray/auth_token: ~/.ray/auth_token\n", "", "authentication"),
    ("cluster.aws.yaml", "127.0.0.1", "0.0.0.0", "dashboard"),
    ("cluster.aws.yaml", "ray2.60.0-py311-gpu", "ray2.59.0-py311-gpu", "worker_image"),
    ("cluster.aws.yaml", "    min_workers: 4", "    min_workers: 0", "fixed"),
    ("cluster.gcp.yaml", "provisioningModel: SPOT", "provisioningModel: STANDARD", "spot"),
    ("cluster.gcp.yaml", "  project_id: PROJECT\n", "", "project_id"),
    ("cluster.gcp.yaml", "py311-cpu", "py312-cpu", "head_image"),
    ("cluster.gcp.yaml", "gpu: l4", "gpu: t4", "labels"),
    ("cluster.gcp.yaml", "max_workers: 4", "max_workers: four", "integer"),
    ("raycluster.yaml", "authOptions:\n    mode: token", "authOptions:\n    mode: disabled", "mode"),
    ("raycluster.yaml", "  authOptions:\n    mode: token\n", "", "authOptions"),
    ("raycluster.yaml", "rayVersion: 2.60.0", "rayVersion: 2.61.0", "rayVersion"),
    ("raycluster.yaml", "workerGroupSpecs", "workerGroupSpec", "workerGroupSpec"),
    ("raycluster.yaml", 'num-cpus: "0"', 'num-cpus: "2"', "head takes tasks"),
    ("raycluster.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "root"),
    ("raycluster.yaml", "drop: [ALL]", "drop: []", "ALL"),
    ("raycluster.yaml", 'limits: {cpu: "7"', 'limits: {cpu: "8"', "limits"),
    ("raycluster.yaml", "ray.io/v1", "ray.io/v1alpha1", "ray.io/v1"),
    ("rayjob.yaml", "exec python", "python", "without exec"),
    ("rayjob.yaml", "jobs.pythia", "jobs.pythai", "pythai"),
    ("rayjob.yaml", '"330"', '"3"', "kills the driver"),
    ("rayjob.yaml", "backoffLimit: 0", "backoffLimit: 3", "backoffLimit"),
    ("rayjob.yaml", "resources.cpus=7", "resources.cpus=8", "a task of 8 CPUs"),
    ("rayjob.yaml", "--set resources.gpu_gb=24 ", "", "gpu_gb None"),
    ("rayjob.yaml", "replicas: 4", "replicas: 5", "raycluster.yaml"),
    ("rayjob.yaml", "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "True"),
    ("raycronjob.yaml", "gpu_gb=24", "gpu_gb=80", "gpu_gb 80"),
    ("raycronjob.yaml", "schedule: 0 3 * * *", "schedule: 0 3 * *", "schedule"),
    ("raycronjob.yaml", "activeDeadlineSeconds: 82800", "activeDeadlineSeconds: 86400", "overlap"),
    ("raycronjob.yaml", "jobs.refresh", "jobs.pythia", "jobs.refresh"),
    ("Dockerfile", "-slim-bookworm", ":latest", "Python 311"),
    ("Dockerfile", "COPY pipeline pipeline", "COPY . .", "copies"),
    ("Dockerfile", "COPY jobs jobs", "COPY jobs weights jobs", "weights"),
    ("Dockerfile", "USER 1000:1000\n\nFROM", "USER root\n\nFROM", "unprivileged"),
    ("Dockerfile", "-c infra/constraints.txt '", "'", "without the pins"),
    ("Dockerfile", " -c infra/constraints-gpu.txt", "", "installs"),
    ("Dockerfile", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "authentication off"),
    ("Dockerfile", "ENV HOME=/home/shapelake", "ENV HOME=/root", "without HOME"),
    ("Dockerfile.dockerignore", "\n*\n", "\n", "first rule"),
    ("constraints-gpu.txt", "faiss-gpu==1.15.1", "faiss-gpu==1.14.1", "faiss-gpu 1.14.1"),
    ("constraints-gpu.txt", "nvidia-curand-cu12==10.3.10.19", "torch==2.13.0", "pinned twice"),
    ("constraints.txt", "ray==2.60.0", "ray==2.61.0", "tag"),
    ("constraints.txt", "aiohttp==3.14.5\n", "", "not pinned"),
    ("slurm.sbatch", "B:USR1@420", "B:USR1@120", "no time for the drain"),
    ("slurm.sbatch", "#SBATCH --requeue\n", "", "directives"),
    ("slurm.sbatch", "\ndone\n", "\n", "syntax error"),
    ("slurm.sbatch", "export RAY_AUTH_MODE=token", "export RAY_AUTH_MODE=none", "authentication"),
    ("slurm.sbatch", 'exit "$code"', "exit $code", "unquoted $code"),
    ("slurm.sbatch", 'exit "$code"', "ray stop", "ends every Ray"),
    ("slurm.sbatch", '"$gpu_gb"', "24", "gpu_gb 24"),
    *(
        (page, " --set resources.gpu_gb=24", "", "gpu_gb None")
        for page in ("README.md", "aws.md", "gcp.md", "kubernetes.md")
    ),
    ("cluster.aws.yaml", 'gpu: l4, vram_gb: "24"', 'gpu: l4, vram_gb: "48"', "GPUs of 48 GB"),
    ("Dockerfile", "-slim-bookworm", "-slim-bookworm@sha256:latest", "Python 311"),
    ("env.example", "RAY_AUTH_MODE=token\n", "RAY_AUTH_MODE=disabled\n", "authentication off"),
    ("env.example", "RAY_AUTH_TOKEN=\n", "RAY_AUTH_TOKEN=0123456789abcdef\n", "a secret"),
]


def test_the_shipped_files_have_no_problems():
    assert problems(FILES) == []


@pytest.mark.parametrize(("name", "old", "new", "fact"), MUTATIONS, ids=lambda word: word.strip()[:30])
def test_a_mutated_file_is_detected(name, old, new, fact):
    mutated = FILES[name].replace(old, new)
    assert mutated != FILES[name], "the mutation changes nothing"
    found = problems(FILES | {name: mutated})
    assert any(fact in finding for finding in found), found


def test_every_file_but_the_pages_is_mutated():
    assert {name for name in FILES if not name.endswith(".md")} <= {name for name, *_ in MUTATIONS}


def test_the_base_image_may_be_pinned_by_its_digest():
    pinned = FILES["Dockerfile"].replace("-slim-bookworm", f"-slim-bookworm@sha256:{'0a' * 32}")
    assert problems(FILES | {"Dockerfile": pinned}) == []


@pytest.mark.parametrize("name", KUBERAY)
def test_a_manifest_is_what_the_custom_resource_definition_allows(name):
    folder = os.environ.get("KUBERAY_CRD_DIR")
    if not folder:
        pytest.skip("needs KUBERAY_CRD_DIR, the folder ray-operator/config/crd/bases of KubeRay")
    refuse_by_crd(parsed(FILES, name), Path(folder))


def refuse_by_crd(manifest, folder):
    definition = yaml.safe_load((folder / f"ray.io_{manifest['kind'].lower()}s.yaml").read_text())
    served = {version["name"]: version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"]}
    schema = strict(served[manifest["apiVersion"].removeprefix("ray.io/")])
    jsonschema.Draft202012Validator(schema).validate(manifest)


def strict(schema):
    """Close a structural schema as the API server does: fields that the schema does not name are rejected."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    inner = {key: strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    return {"additionalProperties": is_open} | inner if "properties" in inner else inner


def test_a_definition_rejects_unknown_fields(tmp_path):
    spec = {"properties": {"replicas": {"type": "integer"}, "cpu": {"x-kubernetes-int-or-string": True}}}
    schema = {"properties": {"apiVersion": {}, "kind": {}, "spec": spec}}
    definition = {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}}
    (tmp_path / "ray.io_rayclusters.yaml").write_text(yaml.safe_dump(definition))
    manifest = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": {"replicas": 1, "cpu": "2"}}
    refuse_by_crd(manifest, tmp_path)
    for wrong in ({"replica": 1}, {"replicas": "one"}, {"cpu": 0.5}):
        with pytest.raises(jsonschema.ValidationError):
            refuse_by_crd(manifest | {"spec": wrong}, tmp_path)
