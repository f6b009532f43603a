"""By hand: a run that was typed, on a prepared data set, into a folder of its own; DVC's outputs are not touched."""

from pathlib import Path

from stepladder import candidates, compose, conversions, exporter, runs, splits, store


def train(config: dict, output: Path) -> dict[str, float]:
    """Train what was typed into `output`, fetching its base when needed, and track it; return the val scores.

    Raises DataError with the command to type where the data set is not prepared.
    """
    config = config | {"tasks": compose.tasks(config)}
    files = splits.assign(config["data"]["name"], config["corpus"], list(config["tasks"]))
    asset = conversions.provide(config["model"])
    folder = asset.get("folder")
    chosen = candidates.Inputs(files, folder and store.root() / folder, asset["files"])
    with exporter.beside(config, files, output) as ended, runs.measured(output / "train.json") as cost:
        scores = candidates.fit_into(output / "model", output / "val.parquet", sections=config, files=chosen, cost=cost)
        ended["scores"] = scores
    return scores
