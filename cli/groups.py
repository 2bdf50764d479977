"""Groups of commands for ``--help``, each command with its first sentence."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

GROUPS = {
    "Train": ("train", "methods"),
    "Encode": ("embed", "models", "pull"),
    "Search": ("index", "search", "push", "dedupe", "map"),
    "Evaluate": ("probe", "predict", "cluster", "score", "report", "compare"),
    "Deploy": ("export", "adopt", "bench", "serve"),
    "Maintain": ("info", "verify", "repair", "doctor", "samples"),
}
NAMES = frozenset(name for names in GROUPS.values() for name in names)


class Commands(TyperGroup):
    """Group of commands whose ``--help`` is sorted by GROUPS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group."""
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, _first_sentence(self.commands[name].help or "")) for name in names])


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".")
