"""Null controls: vectors that ought not to help, for runs that tell what a vector's own direction is worth.

    random      a direction drawn anew, of the same norm as the vector at every layer
    negative    -v: what helps one way should harm the other way
    shuffled    made from the same states in the same way, with the labels good and bad dealt out at random

A random direction says what any push of that size does; a shuffled one what the procedure finds where there is
nothing to find. Knows vectors and states, and no model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from als.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from als.vectors import SteeringVector

CONTROLS = ("random", "negative", "shuffled")


def control_vector(
    vector: SteeringVector, kind: str, *, seed: int = 0, states_dir: str | Path | None = None
) -> SteeringVector:
    """The control of a vector.

    Args:
        vector: what is to be controlled; its metadata is kept, with the control named in it.
        kind: one of CONTROLS.
        seed: of the draw; `negative` draws nothing.
        states_dir: for `shuffled`, the folder of states; otherwise the one that the vector's file names.

    Raises:
        UserError: `shuffled` without states, or with others than the vector was made from.
    """
    if kind == "negative":
        made = -vector.vector
    elif kind == "random":
        made = _random(vector, seed)
    else:
        made = _shuffled(vector, seed, states_dir)
    # The control is known by what it is made of: its own last digits depend on the machine that computed it.
    about = {"control": kind, "control_seed": seed, "control_of": vector.sha256}
    return replace(vector, vector=made, metadata={**vector.metadata, **about})


def _random(vector: SteeringVector, seed: int) -> Tensor:
    """[L, D]: a direction a layer, uniform over all directions, with the norms of the vector."""
    import torch

    drawn = torch.randn(vector.vector.shape, generator=torch.Generator().manual_seed(seed))
    norms: Tensor = vector.vector.norm(dim=-1, keepdim=True)
    return torch.nn.functional.normalize(drawn, dim=-1) * norms


def _shuffled(vector: SteeringVector, seed: int, states_dir: str | Path | None) -> Tensor:
    """[L, D]: what the vector's own procedure makes of its states under shuffled labels."""
    from als.contrast import Contrast, choose, make_estimate
    from als.states import find_states

    folder = states_dir or vector.metadata.get("states_dir")
    if not isinstance(folder, str | Path):
        raise UserError("the vector's file does not say where its states are; give --states_dir for shuffled controls")
    contrast = Contrast.of_vector(vector.metadata)
    found = find_states(Path(folder).expanduser(), skip_bad=bool(vector.metadata.get("skip_bad")))
    indices = vector.metadata.get("state_indices")
    if isinstance(indices, list):  # the folder may have grown since
        found = [file for file in found if file.index in set(indices)]
        if len(found) < len(indices):
            raise UserError(
                f"--states_dir {str(folder)!r} lacks {len(indices) - len(found)} of the {len(indices)} states that the "
                "vector was made from; give the folder it was made from, or make the vector again"
            )
    files, sample = choose(contrast, found, seed=seed, shuffled=seed)
    made = make_estimate(contrast, files, sample, seed=seed, checked=False).vector
    if made.shape != vector.vector.shape:
        raise UserError(
            f"--states_dir {str(folder)!r} holds states of shape {list(made.shape)}, the vector has "
            f"{list(vector.vector.shape)}; give the folder that it was made from"
        )
    return made
