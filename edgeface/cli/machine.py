"""The verbs that look at this machine and the models on it."""

from __future__ import annotations

import sys
from typing import Annotated

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
            "mb": round(c.path.stat().st_size / 1e6, 2) if c.path.is_file() else None,
            "threshold": c.threshold.value,
            "sha256": c.digest[:12],
            "license": c.license,
        }
        for c in cards()
    ]
    print_rows(rows, as_json)


@models.command("groups")
def show_groups(
    name: Annotated[str, typer.Argument(help="Name or file of an embedder.")] = "mobilefacenet",
    as_json: Json = False,
) -> None:
    """Show how often two strangers of one group pass for one person at the card's threshold."""
    from edgeface.models import load_card

    card = load_card(name, "embedding", verify=False)
    rows = [
        {
            "group": group.name,
            "rate": round(group.rate.value, 6),
            "low": round(group.rate.low, 6),
            "high": round(group.rate.high, 6),
            "pairs": group.pairs,
            "threshold": card.threshold.value,
        }
        for group in card.groups
    ]
    if not rows:
        raise ModelError(f"the card of {card.name} says of no group how often strangers pass")
    print_rows(rows, as_json)


@models.command("verify")
def verify_models(as_json: Json = False) -> None:
    """Compare every model file with the digest in its card."""
    from edgeface.models import card_files, digest, parts, read_card

    rows = []
    for file in card_files():
        try:
            card = read_card(file)
        except ModelError as error:
            print(f"edgeface: {error}", file=sys.stderr)
            rows.append({"name": file.stem, "file": str(file), "state": "damaged"})
            continue
        for part in card.files():
            state = "missing"
            if all(p.is_file() for p in parts(part.path)):
                state = "ok" if digest(part.path) == part.digest else "damaged"
            rows.append({"name": card.name, "file": str(part.path), "state": state})
    print_rows(rows, as_json)
    if any(r["state"] != "ok" for r in rows):
        raise ModelError("a model file does not fit its card; reinstall edgeface or that model")


def doctor(
    service: Annotated[
        str | None, typer.Option(help="Only ask a running service, such as http://127.0.0.1:8377.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what this machine offers and lacks.

    Names what is known to go wrong; the exit code is 2 if something is bad.
    """
    if service is not None:
        from edgeface.serve.probe import probe

        probe(service)
        print_rows(
            [{"check": "service", "state": "ok", "detail": f"answers at {service}"}], as_json
        )
        return
    from edgeface.doctor import checks

    rows = [{"check": c.name, "state": c.state, "detail": c.detail} for c in checks()]
    print_rows(rows, as_json)
    if any(r["state"] == "bad" for r in rows):
        raise typer.Exit(2)
