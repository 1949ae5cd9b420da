import json
import shlex

import pytest

from mixpipe.report import Figure, environment, open_beside, write_report


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [(1.8, ">= 1.8", True), (1.79, ">= 1.8", False), (1.0, "<= 1.05", True), (3.0, None, None)],
)
def test_a_figure_knows_whether_its_goal_is_met(value, goal, met):
    assert Figure("x", value, goal).met is met


def test_a_goal_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"goal: expected '>= x' or '<= x', got '== 3'"):
        _ = Figure("x", 3.0, "== 3").met


def test_a_report_has_the_form_of_all_results(tmp_path):
    path = tmp_path / "new folder" / "out.json"
    write_report(path, [{"name": "plain"}], [Figure("speed-up", 1.6, ">= 1.5")], "mixpipe x")
    report = json.loads(path.read_text())
    assert set(report) == {"meta", "rows", "figures"}
    assert set(report["meta"]) == {"hardware", "versions", "commit", "date", "command"}
    assert report["meta"]["command"] == "mixpipe x"
    assert report["figures"] == [{"name": "speed-up", "value": 1.6, "goal": ">= 1.5", "met": True}]


def test_environment_names_what_runs():
    assert environment()["versions"]["torch"]


def test_a_command_is_noted_without_the_places_of_its_machine(monkeypatch):
    words = ["/somewhere/mixpipe/__main__.py", "bench", "plan", "--json", "/home/me/plan.json"]
    monkeypatch.setattr("sys.argv", words)
    assert environment()["command"] == "mixpipe bench plan --json plan.json"


def test_a_command_is_noted_so_that_a_shell_takes_it(monkeypatch):
    words = ["mixpipe", "bench", "method", "--only", "MixTrain 1.8", "--only", "plain"]
    monkeypatch.setattr("sys.argv", words)
    command = environment()["command"]
    assert command == "mixpipe bench method --only 'MixTrain 1.8' --only plain"
    assert shlex.split(command) == words


def test_versions_are_noted_of_what_is_compared_with(monkeypatch):
    monkeypatch.setattr("mixpipe.report.metadata.version", lambda package: "1.0")
    assert {"torch", "timm", "kornia", "spdl", "ffcv"} <= environment()["versions"].keys()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), open_beside(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
