"""The verbs that look at this machine and the models on it."""

from __future__ import annotations

import typer

from edgeface.cli.output import Json, print_rows
from edgeface.errors import ModelError

models = typer.Typer(help="The models edgeface can use.")


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models that can be used by name."""
    from edgeface.models import cards

    rows = [
        {
            "name": c.name,
            "task": c.task,
            "mb": round(c.path.stat().st_size / 1e6, 2) if c.path.exists() else None,
            "threshold": c.threshold.value,
            "sha256": c.digest[:12],
            "license": c.raw.get("license", ""),
        }
        for c in cards()
    ]
    print_rows(rows, as_json)


@models.command("verify")
def verify_models(as_json: Json = False) -> None:
    """Compare every model file with the digest in its card."""
    from edgeface.models import cards, digest, parts

    rows = []
    for card in cards():
        for path, expected in card.files().items():
            state = "missing"
            if all(part.is_file() for part in parts(path)):
                state = "ok" if digest(path) == expected else "damaged"
            rows.append({"name": card.name, "file": str(path), "state": state})
    print_rows(rows, as_json)
    if any(r["state"] != "ok" for r in rows):
        raise ModelError("a model file does not fit its card; reinstall edgeface or that model")


def doctor(as_json: Json = False) -> None:
    """Report what this machine offers and what is known to go wrong on it."""
    from edgeface.doctor import checks

    rows = [{"check": c.name, "state": c.state, "detail": c.detail} for c in checks()]
    print_rows(rows, as_json)
    if any(r["state"] == "bad" for r in rows):
        raise typer.Exit(2)
