"""One BLAS thread for products of small matrices, whose threads would spend most of their time on waiting."""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def on_one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with one BLAS thread, then restore the caller's number of threads."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return run
