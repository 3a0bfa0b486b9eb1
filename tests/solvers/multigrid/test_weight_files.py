"""Weights on disk: what was saved comes back, anything else is refused with a remedy, and nothing is ever unpickled."""

import contextlib
import json
import pickle
import stat
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from krylearn.pde import FAMILIES, scene
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.multigrid import step_sizes, weight_files as storage
from krylearn.solvers.multigrid.network import CoefficientNetwork
from krylearn.solvers.published import dcdm_method, npsdo_method as npsdo_directions
from multigrid_cases import random_network
from safetensors import safe_open
from safetensors.torch import save_file

SHIPPED = [*storage.DEFAULT.values(), *storage.TUNED.values()]


@pytest.fixture
def saved(tmp_path):
    return storage.save_weights(random_network(35_023), tmp_path / "mine", {"dimension": 3, "families": ["blocks"]})


def rewritten(path, tensors=None, **changes):
    """The file with other tensors or other metadata."""
    with safe_open(path, framework="pt") as file:
        old, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    metadata = {k: v for k, v in (metadata | changes).items() if v is not None}
    save_file(old if tensors is None else tensors(old), path, metadata)
    return path


# --- round trip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 5, 16])
def test_what_was_saved_comes_back(tmp_path, hidden):
    network = random_network(35_027, hidden=hidden)
    path = storage.save_weights(network, tmp_path / "deeper" / "net.pt", {"dimension": 2})
    assert path == tmp_path / "deeper" / "net.safetensors"
    loaded = storage.load_weights(path)
    assert loaded.hidden == hidden
    assert not loaded.training
    for (name, value), (other, expected) in zip(loaded.state_dict().items(), network.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, expected)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.json", "net.safetensors"]  # nothing half-written


def test_names_with_dots_keep_them(tmp_path):
    network, names = random_network(35_029), ["w.v1.2", "w.v1.3", "net.pt", "a.safetensors", "b.safetensors.bak"]
    made = [storage.save_weights(network, tmp_path / name, {}).name.removesuffix(".safetensors") for name in names]
    assert made == ["w.v1.2", "w.v1.3", "net", "a", "b.safetensors.bak"]
    beside = {each.name for each in tmp_path.iterdir()}
    assert beside == {name + suffix for name in made for suffix in (".safetensors", ".json")}


def test_a_planted_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    for planted in ("w.partial", "w.json.partial", ".w.safetensors.part"):
        (tmp_path / planted).symlink_to(tmp_path / "victim")
    storage.save_weights(random_network(35_029), tmp_path / "w", {})
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "w.safetensors").is_symlink()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_precisions_are_read(saved, dtype):
    with safe_open(saved, framework="pt") as file:
        tensors, facts = {k: file.get_tensor(k).to(dtype) for k in file.keys()}, file.metadata()
    with pytest.raises(ValueError, match="differs from its checksum"):  # of the values before
        storage.load_weights(rewritten(saved, lambda _: tensors))
    save_file(tensors, saved, facts | {"sha256": storage.checksum(tensors)})
    loaded = storage.load_weights(saved)
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors[name].float())


def test_the_card_says_what_the_file_says(saved):
    card = json.loads(saved.with_suffix(".json").read_text())
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    assert card["families"] == ["blocks"]
    assert card["dimension"] == 3
    assert card["architecture"] == metadata["architecture"] == storage.ARCHITECTURE
    assert card["sha256"] == metadata["sha256"]
    assert saved.stat().st_mode & stat.S_IRUSR


def test_a_file_is_a_preconditioner(saved):
    A = scene("blocks", (9, 8, 7), 35_051)
    r = np.random.default_rng(35_053).standard_normal(A.shape[0])
    expected = NeuralMultigrid(A, random_network(35_023)) @ r
    for path in (saved, str(saved)):
        np.testing.assert_array_equal(NeuralMultigrid(A, path) @ r, expected)


# --- what is refused --------------------------------------------------------------------------------------------------


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["torch_zip", "torch_legacy", "pickle_2", "pickle_0"])
def test_pickles_are_refused_unread(tmp_path, kind):
    trap, path = tmp_path / "exploded", tmp_path / "weights.safetensors"
    if kind.startswith("torch"):
        torch.save({"w": Bomb(trap)}, path, _use_new_zipfile_serialization=kind == "torch_zip")
    else:
        path.write_bytes(pickle.dumps(Bomb(trap), protocol=int(kind[-1])))
    for load in (storage.load_weights, lambda p: NeuralMultigrid(scene("open_box", (8, 8), 1), p)):
        with pytest.raises(ValueError, match=r"weights\.safetensors is .*krylearn train"):
            load(path)
    assert not trap.exists()


@pytest.mark.parametrize("kept", [0, 1, 7, 40, 400, -1])
def test_truncated_files_are_refused(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"truncated or no safetensors file .*copy it again.*krylearn train"):
        storage.load_weights(saved)


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a \.safetensors file; train with"):
        storage.load_weights(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        NeuralMultigrid(scene("open_box", (8, 8), 1), tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="expected a"):
        storage.load_weights(tmp_path)  # a folder


def test_altered_values_are_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-2] ^= 1  # a bit of the last weight
    saved.write_bytes(data)
    with pytest.raises(ValueError, match=r"differs from its checksum; copy it again, or train"):
        storage.load_weights(saved)


REFUSED = {
    "architecture": (lambda p: rewritten(p, architecture="resnet-9"), r"has architecture 'resnet-9'; expected 'coeff"),
    "foreign": (lambda p: rewritten(p, architecture=None, hidden=None), "has architecture 'none'; expected"),
    "narrower": (lambda p: rewritten(p, hidden="8"), r"does not hold the tensors of coefficients-1"),
    "no_width": (lambda p: rewritten(p, hidden=None), r"has hidden='none'; expected a width from 0 to"),
    "odd_width": (lambda p: rewritten(p, hidden="-3"), r"has hidden='-3'; expected"),
    "huge_width": (lambda p: rewritten(p, hidden="9" * 9), r"has hidden='999999999'; expected"),
    "a_tensor_less": (lambda p: rewritten(p, lambda t: dict(list(t.items())[1:])), "does not hold the tensors"),
    "a_tensor_more": (lambda p: rewritten(p, lambda t: t | {"extra": torch.ones(2)}), "does not hold the tensors"),
    "whole_numbers": (
        lambda p: rewritten(p, lambda t: {k: v.int() for k, v in t.items()}),
        "holds int32 numbers; expec",
    ),
    "complex": (lambda p: rewritten(p, lambda t: {k: v.cfloat() for k, v in t.items()}), "holds complex64 numbers"),
    "endless_width": (lambda p: rewritten(p, hidden="9" * 5000), "expected a width from 0 to"),
    "no_checksum": (lambda p: rewritten(p, sha256=None), "differs from its checksum"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_with_a_remedy(saved, case):
    change, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        storage.load_weights(change(saved))
    assert "krylearn train" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    network = random_network(35_059)
    with torch.no_grad():
        network.link.bias[0] = value
    path = storage.save_weights(network, tmp_path / "net", {"dimension": 2})
    with pytest.raises(ValueError, match="holds NaN or inf; expected finite weights"):
        storage.load_weights(path)


# --- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load_and_their_cards_agree(name):
    network = storage.shipped(name)
    assert isinstance(network, CoefficientNetwork)
    assert (network.hidden == 0) == ("tuned" in name)
    folder = resources.files("krylearn.solvers.multigrid") / "weights"
    card = json.loads((folder / f"{name}.json").read_text())
    with resources.as_file(folder / f"{name}.safetensors") as path, safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert card["sha256"] == metadata["sha256"] == storage.checksum(network.state_dict())
    assert card["architecture"] == metadata["architecture"]
    assert int(card["dimension"]) == int(metadata["dimension"]) == int(name[0])
    assert set(card["families"]) <= set(FAMILIES)
    assert card["licence"] == "BSD-3-Clause"
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    for fact in ("seed", "steps", "hours", "hardware", "sizes", "final_steps_per_decade"):
        assert card[fact] not in (None, "", [], {}), fact


def test_nothing_else_is_shipped():
    published = [*dcdm_method.SHIPPED.values(), *npsdo_directions.DEFAULT.values()]
    multigrid = [*SHIPPED, *step_sizes.SHIPPED.values()]
    for package, expected in (("multigrid", multigrid), ("published", published)):
        folder = resources.files(f"krylearn.solvers.{package}") / "weights"
        names = {p.name for p in folder.iterdir() if p.is_file()}
        assert names == {f"{name}{suffix}" for name in expected for suffix in (".safetensors", ".json")}


def test_shipped_weights_are_read_once():
    name = storage.DEFAULT[3]
    assert storage.shipped(name) is storage.shipped(name)


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
@pytest.mark.parametrize("older", [False, True])
def test_a_kill_between_weights_and_card_leaves_no_wrong_card(tmp_path, monkeypatch, writes, older):
    """After any number of the writes there are the older weights with their card, or the new ones with theirs."""
    first, second = CoefficientNetwork(4), CoefficientNetwork(8)
    if older:
        storage.save_weights(first, tmp_path / "net", {"steps": 1})
    left = [writes]

    def counted(write):
        def once(*arguments):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            write(*arguments)

        return once

    with monkeypatch.context() as patched:
        for name in ("write_bytes", "write_text"):
            patched.setattr(storage, name, counted(getattr(storage, name)))
        with contextlib.suppress(KeyboardInterrupt):
            storage.save_weights(second, tmp_path / "net", {"steps": 2})
    file = tmp_path / "net.safetensors"
    if file.exists():
        steps = storage.card_beside(file)["steps"]
        assert steps == (1 if older and writes < 2 else 2)
        assert storage.load_weights(file).hidden == {1: 4, 2: 8}[steps]
    else:
        assert not older
        assert writes < 2
    storage.save_weights(second, tmp_path / "net", {"steps": 2})
    assert storage.card_beside(file)["steps"] == 2
    assert "replaces" not in json.loads((tmp_path / "net.json").read_text())


def test_a_card_of_other_weights_is_told_apart(tmp_path):
    for name, hidden in (("a", 4), ("b", 8)):
        storage.save_weights(CoefficientNetwork(hidden), tmp_path / name, {"steps": hidden})
    (tmp_path / "a.json").write_bytes((tmp_path / "b.json").read_bytes())
    with pytest.raises(ValueError, match=r"a\.json is the card of other weights than a\.safetensors"):
        storage.card_beside(tmp_path / "a")
    with pytest.raises(OSError, match="none"):
        storage.card_beside(tmp_path / "none")
