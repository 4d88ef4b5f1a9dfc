"""Brings metrics.jsonl of a run into Weights & Biases or trackio, without a network.

    python scripts/import_metrics.py out/run --to wandb      then: wandb sync wandb/offline-run-*
    python scripts/import_metrics.py out/run --to trackio    then: trackio show --project lingot

The run writes the file where RUN.toml has `metrics = true`. The exit code is 77 where the package is missing.
"""

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--to", choices=["wandb", "trackio"], required=True)
    parser.add_argument("--project", default="lingot")
    arguments = parser.parse_args()
    path = arguments.run / "metrics.jsonl"
    if not path.exists():
        sys.exit(f"{path} is not there\n\nhint: train with --set metrics=true")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    to = {"wandb": to_wandb, "trackio": to_trackio}[arguments.to]
    try:
        to(rows, arguments.project, arguments.run.name)
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    print(f"{len(rows)} rows of {path} are in {arguments.to}, project {arguments.project}")


def metrics_of(row):
    return {key: value for key, value in row.items() if key not in ("step", "timestamp", "_step")}


def to_wandb(rows, project, name):
    import wandb

    run = wandb.init(project=project, name=name, mode="offline")
    for row in rows:
        run.log(metrics_of(row), step=row["_step"])
    run.finish()


def to_trackio(rows, project, name):
    import trackio

    names = {key for row in rows for key in metrics_of(row)} - {"_timestamp"}
    columns = ["step", "timestamp", *sorted(names)]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / f"{name}.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        trackio.import_csv(table, project=project, name=name)


if __name__ == "__main__":
    main()
