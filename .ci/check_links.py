"""Check that relative links and anchors of README and documentation lead somewhere, as a code host shows them."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.M)


def pages() -> list[Path]:
    """Return the documents at the top of the repository and all pages of the documentation."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def slugs(page: Path) -> set[str]:
    """Return the anchors that a code host makes of a page's headings."""
    titles = HEADING.findall(CODE.sub("", page.read_text()))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


def broken(page: Path) -> list[str]:
    """Return a line for each link of `page` whose file or heading does not exist."""
    found = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", CODE.sub("", page.read_text()))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            found.append(f"{page.relative_to(ROOT)}: no file {target}")
        elif anchor and file.suffix == ".md" and anchor not in slugs(file):
            found.append(f"{page.relative_to(ROOT)}: no heading {target}")
    return found


if __name__ == "__main__":
    problems = [line for page in pages() for line in broken(page)]
    print("\n".join(problems) or f"{len(pages())} pages: all relative links lead somewhere")
    sys.exit(bool(problems))
