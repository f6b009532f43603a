"""Faults: each guard against the fault that it is for, injected for real; ids as in faults.yaml."""

from pathlib import Path

import pytest

from tests.faults.workshop import Workshop, complete, prepared


@pytest.fixture(scope="session")
def prepared_workshop(tiny: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A project whose data is prepared; copy it before you change it."""
    return prepared(tmp_path_factory.mktemp("prepared") / "project", tiny, empty_store)


@pytest.fixture(scope="session")
def finished_workshop(prepared_workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The same project after an unbroken run of everything; copy it before you change it."""
    made = prepared_workshop.copy(tmp_path_factory.mktemp("finished") / "project")
    complete(made)
    return made


@pytest.fixture
def workshop(prepared_workshop: Workshop, tmp_path: Path) -> Workshop:
    """A copy of the prepared project for one test."""
    return prepared_workshop.copy(tmp_path / "project")
