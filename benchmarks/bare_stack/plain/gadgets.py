"""Calls that a hostile configuration may name: each leaves a file in effects/ when it takes effect.

python gadgets.py list           {name: {"_target_": ..., ...}}
python gadgets.py instantiate    the names of those that took effect through hydra.utils.instantiate
python gadgets.py effects        the names of those that took effect so far
"""

import json
import pickle
import sys
from pathlib import Path

FOLDER = Path("effects").resolve()
BAIT = Path("bait").resolve()


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, name: str):
        self.name = name

    def __reduce__(self):
        return Path.touch, (FOLDER / self.name,)


def calls() -> dict[str, dict]:
    """Return the hostile sections, with the files that they load."""
    FOLDER.mkdir(exist_ok=True)
    (BAIT / "hub").mkdir(parents=True, exist_ok=True)
    (BAIT / "hub/hubconf.py").write_text(f"open({str(FOLDER / 'torch.hub.load')!r}, 'w')\ndef entry(): pass\n")
    for name in ("pandas.read_pickle", "joblib.load", "numpy.load"):
        (BAIT / name).write_bytes(pickle.dumps(Bomb(name)))
    touched = {name: str(FOLDER / name) for name in ("os.system", "subprocess.run", "git.cmd.Git.execute")}
    python = f"open({str(FOLDER / 'builtins.eval')!r}, 'w')"
    return {
        "os.system": {"_target_": "os.system", "_args_": [f"touch {touched['os.system']}"]},
        "subprocess.run": {"_target_": "subprocess.run", "_args_": [["touch", touched["subprocess.run"]]]},
        "builtins.eval": {"_target_": "builtins.eval", "_args_": [python]},
        "pandas.read_pickle": {"_target_": "pandas.read_pickle", "_args_": [str(BAIT / "pandas.read_pickle")]},
        "joblib.load": {"_target_": "joblib.load", "filename": str(BAIT / "joblib.load")},
        "numpy.load": {"_target_": "numpy.load", "_args_": [str(BAIT / "numpy.load")], "allow_pickle": True},
        "torch.hub.load": {"_target_": "torch.hub.load", "repo_or_dir": str(BAIT / "hub"), "model": "entry",
                           "source": "local"},
        "git.cmd.Git.execute": {"_target_": "git.cmd.Git.execute",
                                "_args_": [{"_target_": "git.cmd.Git"}, ["touch", touched["git.cmd.Git.execute"]]]},
        "pathlib.Path.write_text": {"_target_": "pathlib.Path.write_text", "data": "overwritten", "_args_": [
            {"_target_": "pathlib.Path", "_args_": [str(FOLDER / "pathlib.Path.write_text")]}]},
        "shutil.copyfile": {"_target_": "shutil.copyfile", "src": __file__, "dst": str(FOLDER / "shutil.copyfile")},
    }  # fmt: skip


def effects() -> list[str]:
    """Return the names that left a file."""
    return sorted(file.name for file in FOLDER.iterdir())


def main(word: str) -> None:
    """Print what the word asks for, as the last line."""
    found = calls()
    if word == "instantiate":
        from hydra.utils import instantiate

        for section in found.values():
            try:
                instantiate(section)
            except Exception as error:
                print(type(error).__name__, str(error).splitlines()[0][:150])
    print(json.dumps(found if word == "list" else effects()))


if __name__ == "__main__":
    main(sys.argv[1])
