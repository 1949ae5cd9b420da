"""`mixpipe bench report`: the tables and plots of docs/benchmarks.md, from the results' files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mixpipe.bench import plots
from mixpipe.bench.parts import PARTS
from mixpipe.report import open_beside
from mixpipe.train.config import TrainConfig, peak_rate

__all__ = ["write_page"]

Row = Mapping[str, Any]
Result = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]


def write_page(page: Path, results: Path, images: Path) -> list[str]:
    """Rewrite the marked sections of a page.

    A section lies between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``, where NAME is that of
    a file NAME.json in ``results``, and may end with ``*`` for several. What a section had before
    is lost; one without a result says so.

    Args:
        page: a Markdown file.
        results: folder of files that `mixpipe.report.write_report` wrote.
        images: folder for the plots, ``NAME.png`` each; the page links to them by relative path.

    Returns:
        The names of the results that went in.

    Raises:
        ValueError: the page has no sections.
    """
    text = page.read_text(encoding="utf-8")
    used = []

    def section(match: re.Match[str]) -> str:
        pattern = match["name"]
        parts = []
        for path in sorted(results.glob(f"{pattern}.json")):
            used.append(path.stem)
            result = json.loads(path.read_text())
            parts += _section(path.stem, result, images, page.parent)
        body = "\n\n".join(parts or ["No result yet."])
        return f"<!-- begin {pattern} -->\n\n{body}\n\n<!-- end {pattern} -->"

    marked = r"<!-- begin (?P<name>\S+) -->.*?<!-- end (?P=name) -->"
    text, count = re.subn(marked, section, text, flags=re.DOTALL)
    if not count:
        raise ValueError(f"{page}: no section found, expected <!-- begin NAME --> and an end")
    with open_beside(page) as file:
        file.write(text.encode())
    return used


def _section(name: str, result: Result, images: Path, base: Path) -> list[str]:
    kind = name.split("-")[0]
    parts = [_meta(result["meta"])]
    if result["figures"]:
        parts.append(_table(_FIGURES, result["figures"]))
    drawn = _DRAWN.get(kind)
    if drawn is not None and result["rows"]:
        path = images / f"{name}.png"
        drawn(path, result["rows"], name)
        link = Path(os.path.relpath(path, base))
        parts.append(f"![{name}]({link.as_posix()})")
    parts += _TABLES.get(kind, _any_table)(result["rows"])
    return parts


def _meta(meta: Row) -> str:
    """Where, on what, when and how it was measured, in one paragraph."""
    hardware = meta["hardware"]
    gpu = f", {hardware['gpu']}" if hardware.get("gpu") else ""
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    return (
        f"`{meta['command']}` on {hardware['cores']} cores of {hardware['cpu']}, "
        f"{hardware['memory_gib']} GiB{gpu}; {meta['date']}, commit {meta['commit']}; {versions}."
    )


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def _spread(value: Row, digits: int = 2) -> str:
    median, least, most = (f"{value[key]:.{digits}f}" for key in ("median", "least", "most"))
    return f"{median} ({least}–{most})"


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """A Markdown table; all but the first column to the right."""
    lines = [
        "| " + " | ".join(heading for heading, _ in columns) + " |",
        "|" + "|".join([":--", *["--:"] * (len(columns) - 1)]) + "|",
    ]
    lines += ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in rows]
    return "\n".join(lines)


def _plain(key: str) -> Callable[[Row], str]:
    return lambda row: _number(row.get(key))


def _spreading(key: str, digits: int = 2) -> Callable[[Row], str]:
    return lambda row: _spread(row[key], digits) if row.get(key) else ""


def _met(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row["met"]]


_FIGURES: Sequence[Column] = (
    ("figure", _plain("name")),
    ("value", _plain("value")),
    ("goal", _plain("goal")),
    ("met", _met),
)


def _plan_tables(rows: Sequence[Row]) -> list[str]:
    """A row for each policy, a column for each number of samples; then the batches."""
    plans = {(row["policy"], row["samples"]): row for row in rows if "policy" in row}
    sizes = sorted({samples for _, samples in plans})

    def column(samples: int, key: str) -> Column:
        def cell(row: Row) -> str:
            return _number(plans.get((row["policy"], samples), {}).get(key))

        return f"{samples:,}", cell

    policies = [{"policy": name} for name in dict.fromkeys(policy for policy, _ in plans)]
    tables = []
    for title, key in (
        ("Seconds for a plan, by number of samples:", "seconds"),
        ("Peak bytes a sample:", "peak_bytes_per_sample"),
    ):
        columns = [("policy", _plain("policy")), *(column(samples, key) for samples in sizes)]
        tables += [title, _table(columns, policies)]
    return tables


def _kernel_tables(rows: Sequence[Row]) -> list[str]:
    """A table for each case."""
    columns: Sequence[Column] = (
        ("way", _plain("way")),
        ("ms", _spreading("wall_ms", 3)),
        ("CPU ms", lambda row: f"{row['cpu_ms']['median']:.3f}"),
        *((("GPU ms", _spreading("device_ms", 4)),) if "device_ms" in rows[0] else ()),
        ("GB/s", _plain("gb_per_s")),
        (
            "of a copy",
            lambda row: f"{row['copy_share']['median']:.2f}" if row["copy_share"] else "",
        ),
        ("× mixpipe's time", _spreading("ratio")),
    )
    tables = []
    for case in dict.fromkeys(row["case"] for row in rows):
        same = [row for row in rows if row["case"] == case]
        tables.append(f"**{case}**, {same[0]['bytes'] / 1e6:.2f} MB must move:")
        tables.append(_table(columns, same))
    return tables


def _loader_tables(rows: Sequence[Row]) -> list[str]:
    columns: Sequence[Column] = (
        ("loader", lambda row: row["name"] + (f" ({row['note']})" if "note" in row else "")),
        ("CPU ms an output", _plain("cpu_ms_per_output")),
        ("CPU ms an image", _plain("cpu_ms_per_image")),
        ("outputs/s", _plain("outputs_per_s")),
        ("images/s", _plain("images_per_s")),
        ("peak MiB", _plain("peak_mib")),
        ("CPU time ÷ mixpipe's", _spreading("cpu_ratio")),
        ("speed ÷ mixpipe's", _spreading("speed_ratio")),
    )

    def memory(row: Row) -> str:
        every = max(1, len(row["mib"]) // 10)
        listed = ", ".join(f"{mib:.0f}" for mib in row["mib"][::every])
        return listed if every == 1 else f"{listed} (one epoch in {every})"

    steady: Sequence[Column] = (
        ("data set", _plain("name")),
        ("ms a batch", _spreading("batch_ms")),
        ("ms between two epochs", _spreading("gap_ms")),
        ("in batch times", _plain("gap_batches")),
        ("MiB over the epochs", memory),
    )

    def part(name: str) -> Column:
        return name, lambda row: _spread(row["cpu_ms_of"][name])

    tables = []
    for kind, title, chosen in (
        ("plain", "plain:", columns),
        ("composites", "composites:", columns),
        ("steady", "Composites of two for many epochs, nothing done with them:", steady),
        (
            "parts",
            "Where the time of one composite goes, in CPU milliseconds:",
            [("composite of", _plain("name")), *map(part, PARTS), ("in all", _spreading("cpu_ms"))],
        ),
    ):
        same = [row for row in rows if row["kind"] == kind]
        tables += [title, _table(chosen, same)] if same else []
    return tables


def _any_table(rows: Sequence[Row]) -> list[str]:
    """What every row has as a plain value."""
    if not rows:
        return []
    keys = [key for key in rows[0] if not isinstance(rows[0][key], (dict, list))]
    return [_table([(key.replace("_", " "), _plain(key)) for key in keys], rows)]


def _method_tables(rows: Sequence[Row]) -> list[str]:
    """A row a way of training."""

    def accuracy(row: Row) -> str:
        deviation = row["deviation"]
        return f"{row['accuracy']:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")

    def decoded(row: Row) -> str:
        # Runs of before do not know it.
        images = row.get("decoded")
        return "" if images is None else f"{images:,.0f} ({images / row['seconds']:.0f}/s)"

    settings = dict(zip((row["name"] for row in rows), _settings(rows), strict=True))
    columns: list[Column] = [
        ("way", _plain("name")),
        *((("settings", lambda row: settings[row["name"]]),) if any(settings.values()) else ()),
        ("seeds", _plain("seeds")),
        ("accuracy %", accuracy),
        ("network inputs", _plain("network_inputs")),
        ("saved", lambda row: "" if row["saved"] is None else f"{row['saved']:.2f}×"),
        ("steps", lambda row: f"{row['steps']:,.0f}"),
        ("seconds", lambda row: f"{row['seconds']:.0f}"),
        ("CPU seconds", lambda row: f"{row['cpu_seconds']:.0f}"),
        ("images/s trained", lambda row: f"{row['images_per_second']:.0f}"),
        *((("images decoded", decoded),) if any(map(decoded, rows)) else ()),
        ("trained on", lambda row: "; ".join(row.get("trained_on", ()))),
        ("at commits", lambda row: ", ".join(map(_short, row.get("commits", ())))),
    ]
    tables = [_table(columns, rows)]
    judged = [row for row in rows if row["seeds"] >= _SEEDS and row.get("by_class")]
    if judged:
        classes: list[Column] = [
            ("way", _plain("name")),
            *((name, _class(name)) for name in judged[0]["by_class"]),
        ]
        tables += ["Per cent right of each class:", _table(classes, judged)]
    return tables


def _short(commit: str) -> str:
    """Seven digits, and whether the working tree had changes."""
    return commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")


def _class(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row['by_class'][name]:.1f}"


# With fewer seeds than these, what single classes come to says little.
_SEEDS = 3
# Of a run's settings those that say where and how it was run, not what was trained.
_ASIDE = {
    "data",
    "val_split",
    "seed",
    "device",
    "decode_device",
    "threads",
    "skip_unreadable",
    "cache",
    "eval_every",
}


def _settings(rows: Sequence[Row]) -> list[str]:
    """Of each row the settings that not all rows share, where they are not plain training's."""
    configs = [_config(row) for row in rows]
    plain = next((c for row, c in zip(rows, configs, strict=True) if row["name"] == "plain"), {})
    names = [
        field.name
        for field in fields(TrainConfig)
        if field.name not in _ASIDE and len({repr(c.get(field.name)) for c in configs if c}) > 1
    ]
    return [
        ", ".join(f"{name} {c[name]}" for name in names if c and c[name] != plain.get(name))
        for c in configs
    ]


def _config(row: Row) -> dict[str, Any]:
    """The settings of a row's runs, all with the same; those that came later at their defaults."""
    if not row.get("runs"):
        return {}
    known = {field.name for field in fields(TrainConfig)}
    noted = row["runs"][0]["config"]
    config = TrainConfig(**{name: noted[name] for name in known & noted.keys()})
    # What was left to the optimiser's default and what named it are the same.
    return {**config.as_dict(), "lr": peak_rate(config)}


_DRAWN: Mapping[str, Callable[[Path, Sequence[Row], str], None]] = {
    "plan": plots.draw_plan,
    "kernels": plots.draw_kernels,
    "loader": plots.draw_loader,
    "method": plots.draw_method,
}
_TABLES: Mapping[str, Callable[[Sequence[Row]], list[str]]] = {
    "plan": _plan_tables,
    "kernels": _kernel_tables,
    "loader": _loader_tables,
    "method": _method_tables,
}
