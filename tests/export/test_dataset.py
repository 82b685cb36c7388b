"""Dataset for the Hub: complete, reproducible, and uploaded only on request."""

import base64
import html
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import polars as pl
import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.columns import METRIC_GROUPS, column_names
from pipeline.errors import UsageError
from pipeline.export import prepare_dataset, upload_dataset
from pipeline.output_paths import OWNER_FILE
from tests.support import finding_rows

NAME = "lab/shapes"


@pytest.fixture
def reader(tmp_path):
    return finding_rows.commit(
        tmp_path / "lake", [row for step in (64, 1) for row in finding_rows.profile("dome", step=step)]
    )


def test_the_folder_has_the_rows_their_meaning_and_a_card(reader, tmp_path):
    prepared = prepare_dataset(reader, NAME, tmp_path / "shapes", "cc-by-4.0")
    files = {str(path.relative_to(prepared.folder)) for path in prepared.folder.rglob("*") if path.is_file()}
    files.remove(OWNER_FILE)
    assert {"README.md", "columns.csv", "data/layers.parquet", "data/checkpoints.parquet"} < files
    assert any(name.startswith("recipes/") for name in files)
    assert prepared.files_written == len(files)
    layers = pl.read_parquet(prepared.folder / "data" / "layers.parquet")
    assert layers.equals(reader.query_frame("FROM layers ORDER BY ALL"))
    head, text = re.fullmatch("---\n(.*?)\n---\n(.*)", (prepared.folder / "README.md").read_text(), re.DOTALL).groups()
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "cc-by-4.0"
    assert {config["data_files"] for config in metadata["configs"]} <= files
    assert all(f"`{name}`" in text for name in column_names(*METRIC_GROUPS))
    assert f"@{prepared.version}/data/layers.parquet" in text
    assert "2311.05928" in text
    assert "| lab/small | 2 | 1 to 64 |" in text


HOSTILE = "x` | <b>&amp; [a](http://b) *c* ``d``\n---\nlicense: mit\x1b[2J"


def test_names_and_licence_are_text_in_the_card(tmp_path):
    rows = [row | {"model": HOSTILE, "corpus": HOSTILE} for row in finding_rows.profile("dome")]
    reader = finding_rows.commit(tmp_path / "lake", rows)
    folder = prepare_dataset(reader, "lab/my_shapes", tmp_path / "shapes", f"cc: {HOSTILE}").folder
    head, text = re.fullmatch("---\n(.*?)\n---\n(.*)", (folder / "README.md").read_text(), re.DOTALL).groups()
    metadata = yaml.safe_load(head)
    shown = HOSTILE.replace("\n", r"\n").replace("\x1b", r"\x1b")
    assert (metadata["license"], metadata["pretty_name"]) == (f"cc: {shown}", "my_shapes")
    escaped = r"x\` \| \<b\>\&amp; \[a\](http\://b) \*c\* \`\`d\`\`\\n---\\nlicense\: mit\\x1b\[2J"
    assert f"\n| {escaped} | 1 |" in text
    assert f"The numbers are under cc\\: {escaped}." in text
    assert f"texts ``` {shown} ```, recipes `quick@1`." in text
    assert text.startswith("\n# my\\_shapes\n")


@pytest.mark.parametrize("text", [HOSTILE, "`", "~~~", "a\\", "$x$", "www.a.b", "![a](b)", "#1 @you", "\u202e", "<!--"])
def test_a_name_is_rendered_as_the_text_that_it_is(text):
    from markdown_it import MarkdownIt

    from pipeline.export.dataset_card import _code_span, _escape_markdown
    from pipeline.terminal import escape_control

    parser = MarkdownIt("commonmark").enable("table")
    table = parser.render(f"| a |\n|---|\n| {_escape_markdown(text)} |")
    assert f"<td>{html.escape(escape_control(text))}</td>" in table
    assert parser.render(f"a {_code_span(text)}") == f"<p>a <code>{html.escape(escape_control(text))}</code></p>\n"


def test_equal_rows_give_one_version_and_a_second_call_writes_nothing(reader, tmp_path):
    first = prepare_dataset(reader, NAME, tmp_path / "a", "cc-by-4.0")
    other = prepare_dataset(reader, NAME, tmp_path / "b", "cc-by-4.0")
    assert first.version == other.version
    assert prepare_dataset(reader, NAME, tmp_path / "a", "cc-by-4.0").files_written == 0
    grown = finding_rows.commit(tmp_path / "lake", finding_rows.profile("dome", step=8))
    later = prepare_dataset(grown, NAME, tmp_path / "a", "cc-by-4.0")
    assert (later.version != first.version, later.files_written) == (True, 3), "two tables and the card"


def test_after_a_kill_the_next_call_completes_the_dataset(reader, tmp_path, monkeypatch):
    whole = prepare_dataset(reader, NAME, tmp_path / "whole", "cc-by-4.0")
    monkeypatch.setattr("pipeline.export.dataset.format_card", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(reader, NAME, tmp_path / "broken", "cc-by-4.0")
    monkeypatch.undo()
    prepare_dataset(reader, NAME, tmp_path / "broken", "cc-by-4.0")
    expected, repaired = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (whole.folder, tmp_path / "broken")
    )
    assert repaired == expected


@pytest.mark.parametrize("name", ["shapes", "lab/", "/shapes", "a/b/c", "me/a b", "me/a..b", "me/" + 100 * "a", ""])
def test_an_invalid_dataset_name_is_refused(reader, tmp_path, name):
    with pytest.raises(UsageError, match="owner/name") as refused:
        prepare_dataset(reader, name, tmp_path / "x", "cc-by-4.0")
    assert len(str(refused.value).splitlines()) == 2
    assert not (tmp_path / "x").exists()


class Hub(BaseHTTPRequestHandler):
    """Server with the four endpoints of an upload: create, preupload, commit, tag. It stores files and tags."""

    stored: dict[str, bytes]
    tags: dict[str, str]
    requests: list[str]

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.requests.append(self.path)
        assert self.headers["Authorization"] == "Bearer hf_test"
        answer = json.dumps(self._answer(self.path.rsplit("/", 2)[-2 if "/main" in self.path else -1], body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer(self, action: str, body: bytes) -> dict[str, object]:
        if action == "create":
            assert json.loads(body)["visibility"] == "private", "a new dataset is private"
            return {"url": f"https://huggingface.co/datasets/{NAME}"}
        if action == "preupload":
            files = json.loads(body)["files"]
            return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            added = [line["value"] for line in lines if line["key"] == "file"]
            self.stored.update({file["path"]: base64.b64decode(file["content"]) for file in added})
            return {"commitUrl": f"https://huggingface.co/datasets/{NAME}/commit/{'c' * 40}", "commitOid": "c" * 40}
        if "/tag/" in self.path:
            self.tags[json.loads(body)["tag"]] = self.path.rsplit("/", 1)[1]
        return {}


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.stored, Hub.tags, Hub.requests = {}, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def test_an_upload_has_the_files_of_the_folder_and_a_tag_with_its_version(reader, tmp_path, hub):
    prepared = prepare_dataset(reader, NAME, tmp_path / "shapes", "cc-by-4.0")
    assert hub.requests == [], "preparing sends no request"
    (prepared.folder / "model.safetensors").write_bytes(b"not a file of the dataset")
    assert upload_dataset(prepared, NAME).endswith(f"/datasets/{NAME}/tree/{prepared.version}")
    assert hub.stored == {name: (prepared.folder / name).read_bytes() for name in prepared.files}
    assert {"README.md", "data/layers.parquet"} < set(prepared.files)
    assert hub.tags == {prepared.version: "c" * 40}


def test_the_command_uploads_only_with_the_flag(reader, tmp_path, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["export", "--to", "hub", NAME, "--lake", str(tmp_path / "lake")]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, hub.requests) == (0, [])
    folder = "datasets--lab--shapes"
    assert (tmp_path / folder / "README.md").exists()
    assert f"shapelake {' '.join([*words, '-o', folder])} --upload" in done.output
    assert re.search(r"kB  data/layers.parquet\n.*README.md\n.*--upload", done.output, re.DOTALL), "what would be sent"
    assert CliRunner().invoke(app, [*words, "--upload"]).exit_code == 0
    assert "data/layers.parquet" in hub.stored


@pytest.mark.parametrize("content", ["config.json", "README.md", "checkpoints/step1/model.safetensors"])
def test_a_folder_of_other_files_is_neither_written_nor_uploaded(reader, tmp_path, hub, content):
    path = tmp_path / "mine" / content
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    words = ["export", "--to", "hub", NAME, "--lake", str(tmp_path / "lake"), "-o", str(tmp_path / "mine"), "--upload"]
    failed = CliRunner().invoke(app, words).exception
    assert isinstance(failed, UsageError)
    assert "holds other files" in str(failed)
    assert (hub.requests, path.read_text()) == ([], "mine")
    assert [each for each in (tmp_path / "mine").rglob("*") if each.is_file()] == [path]


def test_a_folder_of_another_dataset_is_refused(reader, tmp_path):
    prepare_dataset(reader, NAME, tmp_path / "a", "cc-by-4.0")
    with pytest.raises(UsageError, match=f"belongs to dataset {NAME}"):
        prepare_dataset(reader, "lab/other", tmp_path / "a", "cc-by-4.0")


def test_an_offline_upload_is_refused(reader, tmp_path, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        upload_dataset(prepare_dataset(reader, NAME, tmp_path / "shapes", "cc-by-4.0"), NAME)
    assert hub.requests == []
