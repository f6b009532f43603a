"""Stage fetch: bring the weights or the data set that the configuration names into state/store/, checked by sha256.

python -m pipelines.fetch model=minilm     prints the folder; the second time without any network
python -m pipelines.fetch data=reviews     assets/data/reviews.json
"""

from contextlib import nullcontext
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from pipelines import stage
from stepladder import assets, conversions, runs


@stage
def main(config: dict) -> None:
    """Describe what was fetched in assets/<candidate>.json or assets/data/<data set>.json; by hand what was typed.

    Of the comparison: what the probes of its candidates read, in assets/probes/<candidate>.json.
    """
    for name in config.get("candidates", ()):
        assets.write({"files": assets.of_probes(config["probes"][name])}, f"assets/probes/{name}.json")
    if "candidates" in config:
        return
    candidate, model, data = config.get("candidate"), config.get("model"), config.get("data")
    typed = {word.partition("=")[0].partition(".")[0] for word in HydraConfig.get().overrides.task} & {"model", "data"}
    if model and typed != {"data"}:
        file = Path("runs", candidate or "", "fetch.json")
        with runs.measured(file, metered=config["runtime"]["meter"]) if candidate else nullcontext({}) as cost:
            assets.publish(conversions.provide(model), candidate and f"assets/{candidate}.json")
            cost["key"] = runs.fetched(Path(), candidate)
    if not candidate and typed != {"model"}:
        assets.publish(assets.provide(data), f"assets/data/{data['name']}.json")


if __name__ == "__main__":
    main()
