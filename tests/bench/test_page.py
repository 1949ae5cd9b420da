import pytest
from PIL import Image
from typer.testing import CliRunner

from mixpipe import cli
from mixpipe.bench.page import write_page
from mixpipe.report import Figure, write_report

SPREAD = {"median": 2.0, "least": 1.0, "most": 3.0}
ROWS = {
    "plan": [
        {
            "policy": policy,
            "samples": samples,
            "seconds": 0.25,
            "cpu_seconds": 0.2,
            "peak_bytes_per_sample": 16.0,
        }
        for policy in ("Plain", "MixTrain")
        for samples in (1000, 10**6)
    ],
    "kernels": [
        {
            "case": "compose tiny",
            "way": way,
            "bytes": 10**6,
            "wall_ms": SPREAD,
            "cpu_ms": SPREAD,
            "gb_per_s": 3.5,
            "copy_share": SPREAD,
            "ratio": SPREAD,
        }
        for way in ("mixpipe", "torch eager, batch")
    ],
    "loader": [
        {
            "name": "mixpipe",
            "kind": "plain",
            "cpu_ms_per_output": 1.5,
            "cpu_ms_per_image": 1.5,
            "outputs_per_s": 1234.0,
            "images_per_s": 1234.0,
            "peak_mib": 300.0,
            "rounds": [
                {"cpu_ms_per_output": ms, "outputs_per_s": 1234.0} for ms in (1.4, 1.5, 1.7)
            ],
        },
        {"name": "FFCV", "kind": "plain", "note": "ffcv is not installed"},
        {
            "name": "32 images",
            "kind": "steady",
            "batch_ms": SPREAD,
            "gap_ms": SPREAD,
            "gap_batches": 1.25,
            "mib": [100.2, 101.0],
        },
        {
            "name": "two",
            "kind": "parts",
            "cpu_ms": SPREAD,
            "cpu_ms_of": dict.fromkeys(("plan", "read", "decode", "compose"), SPREAD),
        },
    ],
    "method-one": [
        {
            "name": name,
            "seeds": seeds,
            "accuracy": 90.0,
            "deviation": deviation,
            "network_inputs": inputs,
            "saved": 100.0 / inputs,
            "steps": 10.0,
            "seconds": 3.0,
            "cpu_seconds": 5.0,
            "images_per_second": 50.0,
            "commits": ["0123456789ab", "ba9876543210-dirty"],
        }
        for name, seeds, deviation, inputs in (("plain", 1, None, 100.0), ("mixed", 3, 0.12, 50.0))
    ],
    "other": [{"thing": "x", "value": 3, "parts": [1, 2]}],
}
PAGE = "\n".join(f"Before {n}.\n<!-- begin {n} -->\nold\n<!-- end {n} -->" for n in ROWS)


@pytest.fixture
def project(tmp_path):
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text(PAGE.replace("method-one", "method-*") + "\nAfter.\n", encoding="utf-8")
    for name, rows in ROWS.items():
        path = tmp_path / "benchmarks" / "results" / f"{name}.json"
        write_report(path, rows, [Figure("fast", 0.5, ">= 0.6")], command=f"bench {name}")
    return tmp_path


def test_sections_are_rewritten_and_the_rest_is_kept(project):
    page = project / "docs" / "benchmarks.md"
    arguments = (page, project / "benchmarks" / "results", project / "docs" / "images")
    assert write_page(*arguments) == list(ROWS)
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith("Before plan.\n<!-- begin plan -->")
    assert text.endswith("After.\n")
    assert "| fast | 0.5 | >= 0.6 | **no** |" in text
    assert "| policy | 1,000 | 1,000,000 |" in text
    assert "| Plain | 0.25 | 0.25 |" in text
    assert "**compose tiny**, 1.00 MB must move:" in text
    assert "2.00 (1.00–3.00)" in text
    assert "FFCV (ffcv is not installed)" in text
    assert "| 32 images | 2.00 (1.00–3.00) | 2.00 (1.00–3.00) | 1.25 | 100, 101 |" in text
    assert "| composite of | plan | read | decode | compose | in all |" in text
    assert "| two | 2.00 (1.00–3.00) |" in text
    assert (
        "| mixed | 3 | 90.00 ± 0.12 | 50 | 2.00× | 10 | 3 | 5 | 50 |  | 0123456, ba98765-dirty |"
        in text
    )
    assert "| way | seeds |" in text  # no column of settings, which all share
    assert "| thing | value |" in text
    for name in ("plan", "kernels", "loader", "method-one"):
        assert f"![{name}](images/{name}.png)" in text
        with Image.open(project / "docs" / "images" / f"{name}.png") as plot:
            assert plot.size[0] > 500
    write_page(*arguments)
    assert page.read_text(encoding="utf-8") == text


def test_a_table_of_the_method_tells_settings_and_decoded_images(project):
    # Plain training's rate is 0.1 by default; what is said twice, or only of the machine, is none.
    differing = {
        "plain": {"lr": None},
        "as plain": {"lr": 0.1, "threads": 1},
        "mixed": {"lr": 0.2, "epochs": 31, "separate": False},
    }
    rows = [
        {
            **ROWS["method-one"][0],
            "name": name,
            "runs": [{"config": {"model": "resnet8", "epochs": 38, **settings}}],
            **({"decoded": 20_000.0} if name == "mixed" else {}),
        }
        for name, settings in differing.items()
    ]
    results = project / "benchmarks" / "results"
    page = project / "docs" / "benchmarks.md"

    def lines(rows):
        write_report(results / "method-one.json", rows, [])
        write_page(page, results, project / "docs" / "images")
        table = page.read_text(encoding="utf-8").split("method-* -->")[1]
        return [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]

    head, *table = lines(rows)
    assert head[1] == "settings"
    assert [line[1] for line in table] == ["", "", "epochs 31, lr 0.2, separate False"]
    decoded = head.index("images decoded")
    assert [line[decoded] for line in table] == ["", "", "20,000 (6667/s)"]
    # Without plain training to compare with, of each row what tells it from the others.
    _, *table = lines(rows[1:])
    assert table[0][1] == "epochs 38, lr 0.1, separate True"


def test_classes_have_a_table_of_rows_with_seeds_enough(project):
    rows = [
        {**row, "by_class": {"bag": 98.76, "shirt": 80.0 + row["seeds"]}}
        for row in ROWS["method-one"]
    ]
    results = project / "benchmarks" / "results"
    write_report(results / "method-one.json", rows, [])
    page = project / "docs" / "benchmarks.md"
    write_page(page, results, project / "docs" / "images")
    text = page.read_text(encoding="utf-8").split("Per cent right of each class:")[1]
    lines = [line for line in text.split("<!-- end")[0].splitlines() if line]
    assert lines == ["| way | bag | shirt |", "|:--|--:|--:|", "| mixed | 98.8 | 83.0 |"]


def test_a_section_without_result_says_so(project):
    (project / "benchmarks" / "results" / "plan.json").unlink()
    page = project / "docs" / "benchmarks.md"
    write_page(page, project / "benchmarks" / "results", project / "docs" / "images")
    assert "<!-- begin plan -->\n\nNo result yet." in page.read_text(encoding="utf-8")


def test_a_page_without_sections_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Nothing.", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md: no section found"):
        write_page(page, tmp_path, tmp_path)


def test_the_command_works_on_the_project_in_hand(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "docs" / "method.md").write_text(
        "<!-- begin method-one -->\n<!-- end method-one -->"
    )
    result = CliRunner().invoke(cli.app, ["bench", "report"])
    assert result.exit_code == 0, result.output
    assert "plan" in result.output
    assert "| mixed | 3 |" in (project / "docs" / "method.md").read_text(encoding="utf-8")
