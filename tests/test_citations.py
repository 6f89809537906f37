"""Every document that a file cites is in the repository, and has the section that is named."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".h", ".cpp", ".cu", ".yaml", ".md"}
MADE = {"table.md"}  # by a script
DOCUMENT = re.compile(r"(?<![\w/.:-])[\w./-]*\w\.md\b")
SECTIONS = re.compile(r"([\w./-]*\w\.md)\)?, sections? (\d+(?:(?:, | and |, and | to )\d+)*)")
WRAPPED = re.compile(r"\s*\n\s*(?:(?:#|//|\*)\s*)?")  # a sentence that goes on in the next line


def tracked() -> list[Path]:
    """The files of the repository, but for this one, which holds examples."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in done.stdout.splitlines())
    return [path for path in paths if path.suffix in SUFFIXES and path.is_file()]


def resolve(name: str, folder: Path) -> Path | None:
    """The document of that name, seen from the root or from the folder of the file that cites."""
    places = (ROOT / name, folder / name)
    return next((path for path in places if path.is_file()), None)


def wrong(text: str, folder: Path) -> list[str]:
    """The citations in `text` that lead nowhere."""
    text, found = WRAPPED.sub(" ", text), []
    for match in DOCUMENT.finditer(text):
        name = match.group()
        if Path(name).name not in MADE and resolve(name, folder) is None:
            found.append(name)
    for name, numbers in SECTIONS.findall(text):
        document = resolve(name, folder)
        headings = document.read_text() if document else ""
        for number in re.findall(r"\d+", numbers):
            if f"\n## {number}. " not in headings:
                found.append(f"{name}, section {number}")
    return found


def test_citations_lead_somewhere():
    files = [path for path in tracked() if path != Path(__file__)]
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)): wrong(path.read_text(), path.parent) for path in files}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see docs/method.md, section 7, and README.md", []),
        ("# the sign rule (docs/method.md,\n# section 8)", []),
        ("[method.md](method.md), section 5 and table.md", []),
        ("docs/method.md, sections 2 and 3", []),
        ("dss.md, section 8", ["dss.md", "dss.md, section 8"]),
        ("docs/gone.md", ["docs/gone.md"]),
        ("docs/method.md,\n    section 77", ["docs/method.md, section 77"]),
        ("docs/method.md, sections 2, 3 and 88", ["docs/method.md, section 88"]),
        ("https://example.org/docs/other.md is not ours to check", []),
    ],
)
def test_what_is_found(text, expected):
    assert wrong(text, ROOT / "docs") == expected
