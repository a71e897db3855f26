"""Rows a second and memory of map stages, from reading a CSV to committed parts.

    python benchmarks/map_stages.py [--csv FILE] [--rows 100000 --rows 2000000]

The rows of the file are repeated with a number to reach each size. The memory is the peak of each
Ray worker and of the driver, sampled ten times a second (proportional set size, so that what the
processes share counts once).
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import orjson
import psutil
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent


def write_rows(source: Path, target: Path, rows: int) -> None:
    """Repeat the rows of ``source`` until there are ``rows``, each with a number of its own."""
    with source.open(newline="", encoding="utf-8", errors="replace") as file:
        original = [(r["Question"], r["Answer"]) for r in csv.DictReader(file)]
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Answer"])
        for number in range(rows):
            question, answer = original[number % len(original)]
            writer.writerow([f"{question} #{number}", answer])


class Memory(threading.Thread):
    """Watches a process and its children."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        #: Peak in MiB of the largest process of each kind: the driver, Ray's actors and tasks by
        #: their names, Ray's own servers.
        self.peaks: Counter[str] = Counter()
        #: The same without mapped files, whose memory the kernel takes back when it needs it.
        self.own: Counter[str] = Counter()

    @property
    def driver(self) -> float:
        """Peak in MiB of the driver."""
        return self.peaks["driver"]

    @property
    def worker(self) -> float:
        """Peak in MiB of the largest Ray worker."""
        return max((mib for kind, mib in self.peaks.items() if kind.startswith("ray::")), default=0)

    def run(self) -> None:
        while self._root.is_running():
            self._note("driver", self._root)
            try:
                children = self._root.children(recursive=True)
            except psutil.Error:
                continue
            for child in children:
                self._note("", child)
            time.sleep(0.1)

    def _note(self, kind: str, process: psutil.Process) -> None:
        try:
            kind = kind or _kind(process.cmdline())
            found = _mib(process.pid)
        except (psutil.Error, OSError):
            return
        self.peaks[kind] = max(self.peaks[kind], found["Pss"])
        self.own[kind] = max(self.own[kind], found["Pss_Anon"] + found["Pss_Shmem"])


def _kind(command: list[str]) -> str:
    """What a process is for: Ray's name of it, or the program that it runs."""
    words = " ".join(command).split() or ["?"]
    if words[0].startswith("ray::"):
        return words[0]
    programs = [word for word in words if word.endswith(".py")]
    return Path([*programs, words[0]][0]).name


def _mib(pid: int) -> dict[str, float]:
    """Proportional set size: all of it, and by what it is."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = (line.split(":") for line in lines)
    return {name: int(size.split()[0]) / 2**10 for name, size in sizes}


def measure(source: Path, rows: int, folder: Path) -> dict[str, float]:
    """One run over so many rows."""
    data = folder / f"rows-{rows}.csv"
    write_rows(source, data, rows)
    config = yaml.safe_load((REPOSITORY / "configs/qa_distillation/demo.yaml").read_text())
    config["source"]["path"] = str(data)
    config |= {"run_dir": str(folder / f"run-{rows}"), "save_every_stage": False}
    # The exports are written by one process after the stages; they are not what is measured.
    config["export"] = {"formats": []}
    path = folder / f"config-{rows}.yaml"
    path.write_text(yaml.safe_dump(config))
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "ray_pipeline.cli.app",
        "run",
        str(path),
        "--until",
        "clean-text",
    ]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    memory = Memory(process.pid)
    memory.start()
    if process.wait():
        raise SystemExit(f"the run failed with {process.returncode}")
    wall = time.monotonic() - began
    ledger = orjson.loads((folder / f"run-{rows}" / "ledger.json").read_bytes())
    seconds = {s["name"]: s["seconds"] for s in ledger["stages"]}
    streaming = ledger["phases"]["execution"]
    return {
        "rows": rows,
        "wall": round(wall, 1),
        "execution": round(streaming, 1),
        "rows_a_second": round(rows / streaming),
        "rows_a_second_with_start_and_exports": round(rows / wall),
        "cleaner_us_a_row": round(seconds["clean-text"] / rows * 1e6, 1),
        "driver_mib": round(memory.driver),
        "worker_mib": round(memory.worker),
    }


def main() -> None:
    """Measure each size in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    samples = REPOSITORY / "samples" / "qa.csv"
    parser.add_argument("--csv", type=Path, default=samples, help="with columns Question, Answer")
    parser.add_argument("--rows", type=int, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows or [100_000, 2_000_000]:
            print(orjson.dumps(measure(options.csv, rows, Path(folder))).decode(), flush=True)


if __name__ == "__main__":
    main()
