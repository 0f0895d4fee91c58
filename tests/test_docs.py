"""What the documents and the code say of each other: citations, links and names lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SOURCES = sorted(
    path for folder in ("src", "tools", "benchmarks", "examples", "fuzz") for path in ROOT.glob(f"{folder}/**/*.py")
)
CITATION = re.compile(r"docs/([\w/-]+\.md)(?:\s+sections?\s+([\d., andto]*\d))?")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def sections(document: Path) -> set[str]:
    """Return the numbers of a document's sections."""
    return set(re.findall(r"^#{2,4} ([\d.]*\d)\.? ", document.read_text(), re.MULTILINE))


def cited(numbers: str) -> list[str]:
    """Return the numbers of "2, 3" and "3 to 5" and "10 and 11"."""
    return re.findall(r"\d+(?:\.\d+)?", numbers)


@pytest.mark.parametrize("source", [*SOURCES, ROOT / "pyproject.toml"], ids=lambda path: str(path.relative_to(ROOT)))
def test_citations_lead_to_sections(source: Path) -> None:
    for name, numbers in CITATION.findall(source.read_text()):
        document = ROOT / "docs" / name
        assert document.exists(), f"{source.name} cites docs/{name}, which is not there"
        for number in cited(numbers):
            assert number in sections(document), f"{source.name} cites section {number} of docs/{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_tests_that_are_named_exist() -> None:
    tests = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    for document in DOCUMENTS:
        for name in re.findall(r"`(test_\w+)`", document.read_text()):
            assert name in tests, f"{document.name} names {name}"


def test_every_record_has_the_three_parts() -> None:
    for record in (ROOT / "docs/adr").glob("[0-9]*.md"):
        headings = re.findall(r"^## (\w+)", record.read_text(), re.MULTILINE)
        assert headings == ["Context", "Options", "Outcome"], record.name
