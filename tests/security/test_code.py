"""Static checks of the source code: input is never executed and never trusted."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.files import ROOT

MODULES = sorted(path for name in ("pipeline", "jobs") for path in (ROOT / name).rglob("*.py"))
NEVER = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pandas.read_pickle", "joblib.load", "torch.hub.load"),
}
USER_COMMANDS = {"pipeline/watch/notifier.py": "subprocess.Popen with shell=True"}
"""Allowed because the user typed the command on the command line."""
REQUIRED_ARGUMENTS = {"torch.load": ("weights_only", True)}
SAFE_LOADERS = {"_Loader", "loader", "yaml.SafeLoader", "yaml.CSafeLoader"}
SAFE = {"trust_remote_code": False, "shell": False, "weights_only": True, "allow_pickle": False, "verify": True}
"""Arguments and the only values that they may have."""


def findings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from call_findings(ast.unparse(node.func), node)


def call_findings(name: str, call: ast.Call) -> Iterator[str]:
    given = {word.arg: word.value.value if isinstance(word.value, ast.Constant) else ... for word in call.keywords}
    if name in NEVER:
        yield f"line {call.lineno}: {name}"
    argument, value = REQUIRED_ARGUMENTS.get(name, ("", None))
    if argument and given.get(argument) is not value:
        yield f"line {call.lineno}: {name} without {argument}={value}"
    if name == "yaml.load" and ast.unparse(call.args[1] if len(call.args) > 1 else call) not in SAFE_LOADERS:
        yield f"line {call.lineno}: yaml.load with {ast.unparse(call)}"
    for word, safe in SAFE.items():
        if word in given and given[word] is not safe:
            yield f"line {call.lineno}: {name} with {word}={given[word]}"


def test_input_is_never_executed():
    for path in MODULES:
        name = path.relative_to(ROOT).as_posix()
        allowed = USER_COMMANDS.get(name, "\0")
        assert not [found for found in findings(ast.parse(path.read_text())) if not found.endswith(allowed)], name


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(data)",
        "yaml.load(text, yaml.Loader)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=asked)",
        "subprocess.run(line, shell=True)",
        "requests.get(url, verify=False)",
        "eval(text)",
    ],
)
def test_each_rule_finds_what_it_is_for(code):
    assert list(findings(ast.parse(code)))


def test_every_loader_of_transformers_is_called_with_trust_remote_code():
    """Auto classes can run code from the checkpoint, so `trust_remote_code` must be passed; model classes cannot."""
    loaders = [
        (path, node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("Auto")
        and "from_" in ast.unparse(node.func)
    ]
    assert loaders, "no loader was found to check"
    for path, node in loaders:
        assert "trust_remote_code" in {word.arg for word in node.keywords}, f"{path.name}:{node.lineno}"


def test_the_environment_of_a_cluster_is_no_place_for_the_code_of_others():
    for path in sorted(Path(ROOT / "infra").iterdir()):
        assert "trust_remote_code" not in path.read_text(), path.name
