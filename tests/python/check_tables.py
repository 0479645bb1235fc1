"""Reads exported tables back and compares them with `g211s report --json` of the same recording.

usage: check_tables.py FOLDER csv|arrow|duckdb REPORT.json
`csv` needs nothing but Python, `arrow` the packages pyarrow and pandas, `duckdb` duckdb; both read Parquet.
Prints one line of figures as JSON.
"""

import csv
import json
import sys
from pathlib import Path

# g211s-ebpf/src/event.rs
THREAD_FINAL = 16


def rows_by_csv(folder, name, columns):
    # Empty is null, "" is an empty text: the module csv does not tell them apart, and nothing here needs it.
    kinds = {"u64": int, "i64": int, "bool": lambda s: {"true": True, "false": False}[s], "text": str}
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        head = next(reader)
        assert head == [c["name"] for c in columns], f"{name}: {head}"
        parse = [kinds[c["type"]] for c in columns]
        for cells in reader:
            assert len(cells) == len(head), f"{name}: {cells}"
            yield dict(zip(head, (None if c == "" else p(c) for p, c in zip(parse, cells))))


def rows_by_arrow(folder, name, columns):
    import pyarrow.parquet as pq

    table = pq.read_table(folder / f"{name}.parquet")
    assert table.column_names == [c["name"] for c in columns], table.column_names
    types = {"u64": "uint64", "i64": "int64", "bool": "bool", "text": "string"}
    for column, field in zip(columns, table.schema):
        assert str(field.type) == types[column["type"]], f"{name}.{field.name}: {field.type}"
    # pandas, too: sums of it and of arrow agree.
    frame = table.to_pandas()
    assert len(frame) == table.num_rows
    return table.to_pylist()


def rows_by_duckdb(folder, name, columns):
    import duckdb

    found = duckdb.sql(f"select * from '{folder}/{name}.parquet'")
    assert found.columns == [c["name"] for c in columns], found.columns
    return [dict(zip(found.columns, row)) for row in found.fetchall()]


def main():
    folder, how, report_path = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    with open(report_path, encoding="utf-8") as file:
        report = json.load(file)
    with open(folder / "schema.json", encoding="utf-8") as file:
        schema = json.load(file)
    assert schema["version"] == "g211s.tables/1", schema["version"]
    read = {"csv": rows_by_csv, "arrow": rows_by_arrow, "duckdb": rows_by_duckdb}[how]
    tables = {t["name"]: list(read(folder, t["name"], t["columns"])) for t in schema["tables"]}
    events = tables["events"]
    by_kind = {}
    for e in events:
        # Made by g211s at the end of the run, and not received.
        if e["kind"] == "thread" and e["flags"] & THREAD_FINAL:
            continue
        by_kind[e["kind"]] = by_kind.get(e["kind"], 0) + 1
    received = {k: n for k, n in report["events"]["received"].items() if k != "total" and n}
    assert by_kind == received, f"events: {by_kind}, received {received}"
    assert all(a["ts_ns"] <= b["ts_ns"] for a, b in zip(events, events[1:])) or report["events"]["late"]
    targets = [report, *report["others"]]
    waits = 0
    for index, target in enumerate(targets):
        of = lambda name: [r for r in tables[name] if r["target"] == index]
        pauses, causes = of("pauses"), of("causes")
        assert len(pauses) == target["stw_totals"]["count"]
        for column, total in (("total_ns", "total_ns"), ("unexplained_ns", "unexplained_ns"), ("explained_ns", "explained_ns")):
            assert sum(p[column] for p in pauses) == target["stw_totals"][total], column
        sums = {}
        for c in causes:
            key = (c["part_of"], c["n"])
            sums[key] = sums.get(key, 0) + c["ns"]
        assert all(sums.get(("pause", p["n"]), 0) == p["total_ns"] for p in pauses), "causes sum to the pause"
        delays = of("delays")
        assert all(sums.get(("delay", d["n"]), 0) == d["ns"] for d in delays), "causes sum to the delay"
        told = target["delays"]
        waits += sum(d["kind"] == "wait" for d in delays)
        assert sum(d["kind"] == "wait" for d in delays) == told["count"] - told["in_stw"], "waits outside stops"
        assert sum(d["kind"] == "sleep" for d in delays) == told["asleep"]["count"] - told["asleep"]["in_stw"]
        longest = sorted((d["ns"] for d in delays if d["kind"] == "wait"), reverse=True)[:50]
        assert longest == [d["wait_ns"] for d in told["worst"]], "the longest waits"
        cycles = of("cycles")
        assert [(c["start_ns"], c["duration_ns"]) for c in cycles] == [
            (c["start_ns"], c["duration_ns"]) for c in target["gc"]["cycles"]
        ]
    print(json.dumps({
        "rows": {name: len(rows) for name, rows in tables.items()}, "waits": waits, "how": how,
    }))


main()
