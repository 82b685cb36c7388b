"""JSON schemas of the fields in our KubeRay manifests; an unknown field is an error, as it is for the API server.

Source: the types of ray.io/v1 in KubeRay 1.7 and of Kubernetes core/v1, restricted to the fields that we use.
"""

from typing import Any

Schema = dict[str, Any]


def closed(required: Schema, optional: Schema | None = None) -> Schema:
    """Return the schema of an object with only these fields."""
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def words(**patterns: str) -> Schema:
    """Return the schema of an object with only these string fields, each matching its pattern."""
    return closed({name: {"type": "string", "pattern": f"^(?:{pattern})$"} for name, pattern in patterns.items()})


TEXT: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 50}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "integer", "minimum": 1}
YES_OR_NO: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(m|[KMGT]i?)?$"}
QUANTITIES = closed({"cpu": QUANTITY, "memory": QUANTITY}, {"nvidia.com/gpu": QUANTITY})

CONTAINER = closed(
    {
        "name": NAME,
        "image": TEXT,
        "envFrom": many(closed({"secretRef": closed({"name": NAME})})),
        "resources": closed({"requests": QUANTITIES, "limits": QUANTITIES}),
        "securityContext": closed(
            {"allowPrivilegeEscalation": {"const": False}, "capabilities": closed({"drop": {"const": ["ALL"]}})}
        ),
        "volumeMounts": many(words(name="scratch", mountPath="/scratch")),
    },
    {"ports": many(closed({"name": NAME, "containerPort": SECONDS}))},
)
USER: Schema = {"type": "integer", "minimum": 1}
POD = closed(
    {
        "automountServiceAccountToken": YES_OR_NO,
        "securityContext": closed({"runAsNonRoot": YES_OR_NO, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}),
        "containers": many(CONTAINER),
        "volumes": many(closed({"name": NAME, "emptyDir": closed({"sizeLimit": QUANTITY})})),
    },
    {
        "nodeSelector": TEXTS,
        "tolerations": many(words(key=".+", operator="Exists", effect="NoSchedule")),
    },
)
GROUP = {"labels": TEXTS, "rayStartParams": TEXTS, "template": closed({"spec": POD})}
CLUSTER = closed(
    {
        "rayVersion": TEXT,
        "authOptions": words(mode="token"),
        "headGroupSpec": closed(GROUP),
        "workerGroupSpecs": many(
            closed({"groupName": NAME, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, **GROUP})
        ),
    }
)
JOB = closed(
    {
        "entrypoint": TEXT,
        "runtimeEnvYAML": TEXT,
        "shutdownAfterJobFinishes": {"const": True},
        "ttlSecondsAfterFinished": COUNT,
        "backoffLimit": {"const": 0},
        "preRunningDeadlineSeconds": SECONDS,
        "activeDeadlineSeconds": SECONDS,
        "rayClusterSpec": CLUSTER,
    }
)
CRON = closed(
    {
        "schedule": {"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
        "timeZone": {"type": "string", "pattern": "^[A-Z][A-Za-z]+/[A-Za-z_]+$"},
        "jobTemplate": JOB,
    }
)
MANIFESTS = {
    kind: closed(
        {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"const": kind},
            "metadata": closed({"name": NAME}),
            "spec": spec,
        }
    )
    for kind, spec in {"RayCluster": CLUSTER, "RayJob": JOB, "RayCronJob": CRON}.items()
}
