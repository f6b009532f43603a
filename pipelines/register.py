"""Register: the winner, if it passes the gate, becomes a version of the model in MLflow's registry.

python -m pipelines.register -cd build/compare -cn compare        reports/registered.json
"""

from pathlib import Path

from pipelines import stage
from stepladder import records


@stage
def main(config: dict) -> None:
    """Complete the tracked runs, then register or say in one line why not."""
    from stepladder import registry, sync

    runs = sync.tell(config["candidates"])
    outcome = registry.register(runs, model=f"stepladder_{config['data']['name']}")
    print(outcome["reason"], flush=True)
    records.write_json(outcome, Path("reports", "registered.json"))


if __name__ == "__main__":
    main()
