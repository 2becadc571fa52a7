"""How long canonical forms of answers take, and how often math-verify has to be asked.

    python benchmarks/answers.py [FILE.jsonl]      answers of the tests, or of a file's "answer" fields

Writes its section of RESULTS.md. The tests' answers are written to be odd; real ones are mostly integers.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from results import machine, write_section

from pfjax.tasks import Grader, normal_form

HERE = Path(__file__).parent
REPEATS = 5


def microseconds(answers: list[str]) -> list[float]:
    """The median of five runs for each answer."""
    found = []
    for answer in answers:
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            normal_form(answer)
            times.append(time.perf_counter() - began)
        found.append(1e6 * statistics.median(times))
    return found


def row(name: str, answers: list[str]) -> str:
    """A line of the table."""
    times = microseconds(answers)
    middle, mean = statistics.median(times), statistics.fmean(times)
    return f"| {name} | {len(answers)} | {middle:.1f} | {mean:.1f} | {max(times):.0f} |"


def main(files: list[str]) -> None:
    """Times the forms, then asks the grader about every pair of the tests."""
    sys.path.insert(0, str(HERE.parent / "tests" / "pfjax" / "tasks"))
    from answer_cases import different_pairs, equal_pairs

    pairs = [(a, b) for a, b, _ in equal_pairs()] + different_pairs()
    rows = [row("cases of the tests", sorted({text for pair in pairs for text in pair}))]
    for file in map(Path, files):
        lines = file.read_text().splitlines()
        rows.append(row(file.stem, [str(json.loads(line)["answer"]) for line in lines]))
    by_form = sum(normal_form(a) == normal_form(b) for a, b in pairs)
    with Grader() as grader:
        began = time.perf_counter()
        grader.verdicts(pairs)
        seconds = time.perf_counter() - began
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(grader.counts.items()))
    head = "| answers | number | median, µs | mean, µs | longest, µs |\n|---|---|---|---|---|"
    body = f"{machine()}\n\n" + "\n".join([head, *rows])
    body += f"\n\n{len(pairs)} pairs, {by_form} the same by form; with math-verify {told}, "
    body += f"in {seconds:.1f} s with the start of its process."
    write_section(HERE / "RESULTS.md", "Answers", body)
    print(body)


if __name__ == "__main__":
    main(sys.argv[1:])
