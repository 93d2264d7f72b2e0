"""Break each guard of a broker in turn, and see that a test of the brokers notices.

    python tests/mutations/run.py [postgres|sqlite] [a word of the mutations to run]

It works on a copy of the package in a temporary folder and prints a table for docs/mutations.md. A mutation that no
test notices is a guard without a test. It takes some minutes, and is no part of `make test`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).parent
TESTS = (
    "tests/brokers",
    "tests/plugins/test_postgres_session.py",
    "tests/plugins/test_postgres_plans.py",
    "tests/plugins/test_postgres_claim_cursor.py",
    "tests/plugins/test_postgres_schedules.py",
    "tests/plugins/test_postgres_workflows.py",
    "tests/flow/test_bad_rows.py",
)


@dataclass(frozen=True)
class Mutation:
    """In the part `where` of a file (a named query, a method, or all of it), `old` becomes `new`."""

    broker: str
    file: str
    where: str
    old: str
    new: str

    @property
    def title(self) -> str:
        return f"{self.where}: `{self.old}` → `{self.new or 'nothing'}`"


def mutations(broker: str) -> Iterator[Mutation]:
    """From `postgres.txt` and `sqlite.txt`: `# file`, then `@ part`, then lines `old ==> new`."""
    file = where = ""
    for line in (LIST / f"{broker}.txt").read_text().splitlines():
        if line.startswith("# "):
            file = line[2:]
        elif line.startswith("@ "):
            where = line[2:]
        elif line.strip():
            old, _, new = line.partition(" ==>")
            yield Mutation(broker, file, where, old.strip(), new.strip())


def part_of(text: str, where: str) -> tuple[int, int]:
    """Where the named part of a file begins and ends."""
    found = re.search(rf"^(-- name: {where}\n|(?:    )?(?:async )?def {where}\()", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"there is no part {where!r}")
    end = re.compile(r"^(-- name: |(?:    )?(?:async )?def )", re.MULTILINE).search(text, found.end())
    return found.start(), end.start() if end else len(text)


def mutated(mutation: Mutation, text: str) -> str:
    """The text of its file with `mutation` in."""
    start, end = part_of(text, mutation.where)
    part = text[start:end]
    if mutation.old not in part:
        raise SystemExit(f"{mutation.file}, {mutation.where}: there is no {mutation.old!r}")
    return text[:start] + part.replace(mutation.old, mutation.new) + text[end:]


def apply(mutation: Mutation, package: Path) -> None:
    path = package / "plugins" / mutation.broker / mutation.file
    path.write_text(mutated(mutation, path.read_text()))


def first_failure(broker: str, mutation: Mutation | None = None) -> str | None:
    """The first test that fails once `mutation` is in; None when all pass."""
    with tempfile.TemporaryDirectory(prefix="horsies-mutation-") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "horsies", copy / "horsies")
        shutil.copytree(ROOT / "tests", copy / "tests")
        shutil.copy(ROOT / "pyproject.toml", copy)
        if mutation is not None:
            apply(mutation, copy / "horsies")
        which = (
            "trio and (postgresql or test_postgres)"
            if broker == "postgres"
            else "(trio and sqlite-memory) or test_sqlite or (trio and sqlite and test_bad_rows)"
        )
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS, "-k", which],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
    failed = re.search(r"^(?:FAILED|ERROR) \S*?::(?:\w+::)?(\w+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return failed[1] if failed else None


def main() -> None:
    brokers = [word for word in sys.argv[1:] if word in ("postgres", "sqlite")] or ["postgres", "sqlite"]
    words = [word for word in sys.argv[1:] if word not in ("postgres", "sqlite")]
    survivors, total, began = 0, 0, time.monotonic()
    for broker in brokers:
        if (test := first_failure(broker)) is not None:
            raise SystemExit(
                f"{test} fails with every guard in place, and would be taken for what notices each mutation"
            )
        print(f"\n## {broker}\n\n| guard | noticed by |\n|---|---|")
        for mutation in mutations(broker):
            if all(word in mutation.title for word in words):
                test = first_failure(broker, mutation)
                total, survivors = total + 1, survivors + (test is None)
                title = mutation.title.replace("|", "\\|")
                print(f"| {title} | {test or '**nothing**'} |", flush=True)
    print(f"\n{total} guards broken, {survivors} unnoticed, in {time.monotonic() - began:.0f} s.")
    raise SystemExit(survivors > 0)


if __name__ == "__main__":
    main()
