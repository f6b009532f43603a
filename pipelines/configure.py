"""Configure: params.yaml and conf/ become one complete file for each candidate, data set and the comparison.

python -m pipelines.configure     writes build/; a second or two, nothing is downloaded, torch is not imported
"""

from pathlib import Path

from pipelines import plain_stage


@plain_stage
def main() -> None:
    from stepladder import compose, leftovers, strict

    params = strict.params(Path("params.yaml"))
    datasets = [params["data"], *params["datasets"]]
    for line in leftovers.remove(Path(), candidates=list(params["candidates"]), datasets=datasets):
        print(line)
    written = compose.write(Path("build"), params)
    print(f"build/: {len(params['candidates'])} candidates, {len(datasets)} data sets, {len(written)} files")


if __name__ == "__main__":
    main()
