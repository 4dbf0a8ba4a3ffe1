"""Lists in words, and text that is escaped for Markdown and LaTeX, whatever characters the data bring."""

from __future__ import annotations


def md(text: str) -> str:
    """Escape all that Markdown, or HTML within Markdown, would read as markup."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)


def md_line(cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(md(c) for c in cells) + " |"


def md_table(headings: list[str], lines: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table, with an empty one after it."""
    return [md_line(headings), "|---|" + "---:|" * (len(headings) - 1), *(md_line(cells) for cells in lines), ""]


def joined(names: list[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\rightarrow$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "…": r"\ldots{}",
    "−": r"$-$",
    "†": r"\textdagger{}",
    "“": "``",
    "”": "''",
}


def tex(text: str) -> str:
    """Escape all that LaTeX would read as markup. Letters that its fonts lack become `?`, so that the text compiles."""
    return "".join(_LATEX.get(c, c if c.isascii() or (c.isalpha() and ord(c) < 0x180) else "?") for c in text)


def tex_line(cells: list[str]) -> str:
    """Return a line of a LaTeX table."""
    return " & ".join(tex(c) for c in cells) + r" \\"
