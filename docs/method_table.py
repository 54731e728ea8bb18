"""Write the README's method table from the method table of the code: `python docs/method_table.py`."""

from pathlib import Path

from subopt.optimizers import METHODS, Method

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- written by docs/method_table.py -->\n"
END = "<!-- until here -->\n"
HEAD = "| method | what it does | state | source |\n|---|---|---|---|\n"


def row(method: Method) -> str:
    """Return one method's line."""
    authors = method.paper.split(",")[0]
    where = f"{authors}, {method.section}"
    return f"| `{method.name}` | {method.summary} | {method.state_formula} | {where} |\n"


def with_table(readme: str) -> str:
    """Return the README's text with the table as it should be between the two marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + HEAD + "".join(map(row, METHODS.values())) + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
