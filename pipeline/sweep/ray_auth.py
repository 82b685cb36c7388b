"""Who may talk to the Ray that a local run starts: this run alone. No import of Ray here, see below."""

import os
import secrets


def enable_local_ray_auth() -> None:
    """Token authentication with a secret in this process's environment, which the processes of its Ray inherit.

    It leaves no file in the user's home, and an authentication mode that the user has set stands.
    Ray reads the environment once, when it is imported: call this first.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
