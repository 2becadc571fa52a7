"""`pfjax models`: the embedded checkpoints."""

from pfjax.cli import terminal
from pfjax.cli.errors import one_sentence
from pfjax.cli.options import DEBUG, JSON


def models(as_json: JSON = False, debug: DEBUG = False) -> None:
    """List the embedded checkpoints.

    JSON: a list of name, architecture, parameters, bytes, layers, hidden_size, context.
    """
    with one_sentence(debug):
        from pfjax.cli.checkpoints import embedded

        found = embedded()
        if as_json:
            terminal.print_json(found)
            return
        heads = ["name", "parameters", "on disk", "architecture"]
        rows = [
            [
                m["name"],
                f"{m['parameters'] / 1e6:.2f} M",
                f"{m['bytes'] / 2**20:.1f} MiB",
                f"{m['architecture']}, {m['layers']} layers of {m['hidden_size']}",
            ]
            for m in found
        ]
        terminal.print_rows(rows, heads)
