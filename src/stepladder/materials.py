"""Materials: the bill of a registered version in CycloneDX: the model, base weights, data sets and Python packages.

bom.json, https://cyclonedx.org/docs/1.6/json/ (ECMA-424). The same facts give the same bytes: it holds no time, and its
serial number is a hash of them.
"""

import importlib.metadata
import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stepladder import provenance, store
from stepladder.report import card

LEARNT = {"finetune": "supervised", "pretrain": "self-supervised"}  # approach, by level
OSI = "License :: OSI Approved :: "  # classifier of packages that do not write SPDX yet


def bill(known: dict, folder: Path, packages: Iterable[str]) -> str:
    """Return bom.json of a version: provenance.of knows all of it, it lies in `folder` and needs `packages`."""
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    kind, base = ComponentType.MACHINE_LEARNING_MODEL, known["base"]
    version, licence = known["description"]["key"], provenance.licence(known)
    model = _component(kind, known["model"], version=version, licence=licence, files=store.hashes(folder))
    origins = [_component(kind, **_origin(base))] if base else []
    data = [_component(ComponentType.DATA, **_origin(each)) for each in known["data"]]
    installed = _installed(packages)
    libraries = {name: _library(name) for name in installed}
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(known["hashes"])))
    bom.metadata.component, bom.metadata.properties = model, [Property(name=k, value=v) for k, v in _lineage(known)]
    bom.components = [*origins, *data, *libraries.values()]
    bom.register_dependency(model, [*origins, *data, *(libraries[name] for name, _ in map(_named, packages))])
    for name, needs in installed.items():
        bom.register_dependency(libraries[name], [libraries[other] for other in needs])
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    del content["metadata"]["timestamp"]
    content["metadata"]["component"]["modelCard"] = _card(known, folder, [each.bom_ref.value for each in data])
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _card(known: dict, folder: Path, data: list[str]) -> dict:
    """Return the part `modelCard`, which the library does not write: parameters, measures with intervals, limits."""
    config, level = json.loads((folder / "config.json").read_text()), known["row"]["level"]
    measures = [_measure(*found[:4]) for found in card.measured(known)]
    for part in card.slices(known):
        found = _measure(known["board"]["metric"], part["score"], part["low"], part["high"])
        measures.append(found | {"slice": f"{part['by']}: {part['value']}"})
    return {
        "modelParameters": {
            **({"approach": {"type": LEARNT[level]}} if level in LEARNT else {}),
            "task": known["description"]["task"],
            "architectureFamily": config["model_type"],
            "modelArchitecture": config["architectures"][0],
            "datasets": [{"ref": ref} for ref in data],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": card.answers(known["description"])}],
        },
        "quantitativeAnalysis": {"performanceMetrics": measures},
        "considerations": {"technicalLimitations": card.limits(known)},
    }


def _measure(name: str, value: float, low: float, high: float) -> dict:
    return {"type": name, "value": str(value), "confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)}}


def _lineage(known: dict) -> Iterator[tuple[str, str]]:
    """Yield name and value of what says where a version comes from, as far as it is known."""
    if known["revision"]:
        yield "stepladder:git", known["revision"]
    for path in known["changed"]:
        yield "stepladder:git:changed", path
    for path, md5 in known["hashes"].items():
        yield f"stepladder:dvc:{path}", md5


def _origin(held: dict) -> dict:
    """Return name, licence, package URL and hashes of base weights or a data set, in the words of _component."""
    files = held["files"] | {file["path"]: file["sha256"] for file in held.get("parts", {}).values()}
    found = {"name": held["name"], "licence": held["licence"], "files": files}
    return found | {"archives": [asset for asset in held["assets"] if asset["kind"] in ("npm", "pypi")]}


def _component(kind, name: str, *, files: dict, licence: str | None, archives: Iterable[dict] = (), **options):
    """Return a component with its files, {path: sha256}, and the archives that they were read from, inside."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    ref = f"{kind.value}:{name}"

    def inner(path: str, sha256: str, **more) -> Component:
        digest = HashType(alg=HashAlgorithm.SHA_256, content=sha256)
        return Component(type=ComponentType.FILE, name=path, bom_ref=f"{ref}:{path}", hashes=[digest], **more)

    hashes = {asset["sha256"] for asset in archives}
    parts = [inner(path, sha256) for path, sha256 in files.items() if sha256 not in hashes]
    for asset in archives:
        group, _, package = asset["package"].rpartition("/")  # of npm
        purl = PackageURL(asset["kind"], group or None, package, asset["version"])
        parts.append(inner(asset["package"], asset["sha256"], version=asset["version"], purl=purl))
    held = {"licenses": _licences(licence), "components": parts}
    return Component(type=kind, name=name, bom_ref=ref, **held, **options)


def _library(name: str):
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    told, version = importlib.metadata.metadata(name), importlib.metadata.version(name)
    approved = [line.removeprefix(OSI) for line in told.get_all("Classifier", []) if line.startswith(OSI)]
    licence = told.get("License-Expression") or " and ".join(approved) or (told.get("License") or "").split("\n")[0]
    purl = PackageURL("pypi", None, name, version)
    return Component(name=name, version=version, purl=purl, bom_ref=str(purl), licenses=_licences(licence))


def _licences(told: str | None) -> list:
    from cyclonedx.contrib.license.factories import LicenseFactory

    return [LicenseFactory().make_from_string(told)] if told else []


def _installed(packages: Iterable[str]) -> dict[str, list[str]]:
    """Return {distribution: those that it needs} of all that is installed because of these requirements."""
    found, waiting = {}, [_named(package) for package in packages]
    while waiting:
        name, extras = waiting.pop()
        needs = [_named(line) for line in importlib.metadata.requires(name) or () if _applies(line, extras)]
        new = [each for each in needs if each[0] not in found.get(name, ())]
        found.setdefault(name, []).extend(dict.fromkeys(each for each, _ in new))
        waiting += new
    return dict(sorted(found.items()))


def _applies(line: str, extras: set[str]) -> bool:
    marker = Requirement(line).marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _named(line: str) -> tuple[str, set[str]]:
    """Return the name and the extras of a requirement."""
    wanted = Requirement(line)
    return canonicalize_name(wanted.name), wanted.extras
