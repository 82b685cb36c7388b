"""Translation of Ray's exceptions into failure classes."""

from typing import NamedTuple

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskUnschedulableError,
    UnserializableException,
    WorkerCrashedError,
)

from pipeline.sweep.retry_policy import ErrorClass

NODE_LOST_ERRORS = (NodeDiedError, ObjectLostError, TaskUnschedulableError)


class RayFailure(NamedTuple):
    """Failure of a Ray task, in the form that the driver records."""

    error_class: ErrorClass
    message: str
    traceback: str = ""


def classify_ray_error(error: RayError) -> RayFailure:
    """Return class and message of an exception that Ray raised in place of a task's result.

    A cancelled task is a `timeout`, because the driver cancels only stuck tasks. Only a dead worker process is a
    `crash`. An exception of a type that is not listed here is `infra`: Ray does not work, which says nothing about the
    checkpoint.
    """
    match error:
        case RayTaskError():
            interrupted = isinstance(error.cause, TaskCancelledError)  # an interrupt from outside the driver
            cause = f"{type(error.cause).__name__}: {error.cause}"
            return RayFailure("preempted" if interrupted else "error", cause, str(error))
        case UnserializableException():
            message = "UnserializableException: an exception that cannot be pickled"
            return RayFailure("error", message, str(error))
        case TaskCancelledError():
            return RayFailure("timeout", _first_line(error))
        case OutOfMemoryError():
            return RayFailure("host_oom", _first_line(error), str(error))
        case RuntimeEnvSetupError():
            cause = str(error).strip().rpartition("\n")[2]
            return RayFailure("setup", f"RuntimeEnvSetupError: {cause}", str(error))
        case WorkerCrashedError():
            return RayFailure("crash", _first_line(error))
        case _ if isinstance(error, NODE_LOST_ERRORS):
            return RayFailure("preempted", _first_line(error))
    return RayFailure(
        "infra", f"Ray does not work: {_first_line(error)}\nRestart Ray if it is a cluster, and run again"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
