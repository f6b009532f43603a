"""Stage fetch: bring the weights or the data set that the configuration names into state/store/, checked by sha256.

python -m pipelines.fetch model=minilm     prints the folder; the second time without any network
"""

from pipelines import stage
from stepladder import assets, conversions


@stage
def main(config: dict) -> None:
    """Describe what was fetched in assets/<candidate>.json or assets/data/<data set>.json; by hand only print it."""
    candidate, model, data = config.get("candidate"), config.get("model"), config.get("data")
    if model:
        assets.publish(conversions.provide(model), candidate and f"assets/{candidate}.json")
    if not candidate:
        assets.publish(assets.provide(data), None if model else f"assets/data/{data['name']}.json")


if __name__ == "__main__":
    main()
