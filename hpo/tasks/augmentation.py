"""Augmentation of images, anew in every epoch: each is turned, sheared, scaled, stretched, shifted and bent by chance.

All of it is one change of coordinates, by which the image is sampled once, on the device that it lies on; then its
strokes may be made heavier or lighter. It is sampled bicubically, for bilinear sampling would blur a small image, and
no pixel gets darker or brighter than a round's are: networks would train on images that none is tested on. The numbers
come from the round's own streams, so a round's images do not depend on how it is trained, nor on the device.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from hpo.training.randomness import EpochNumbers

CONTROL = 4  # points along each side of the grid that bends an image


def augment(
    images: Tensor,
    numbers: EpochNumbers,
    *,
    rotation: float | None = None,
    scale: float | None = None,
    stretch: float | None = None,
    shear: float | None = None,
    shift: float | None = None,
    elastic: float | None = None,
    gamma: float | None = None,
) -> Tensor:
    """Returns images (R, N, C, H, W) of R rounds, each changed by chance; what lies outside is as the border is.

    Args:
        rotation: by up to so many degrees, either way.
        scale: its pixels come from places up to this share further from the middle, or nearer to it.
        stretch: and up to this share further across, as many times nearer down, or the other way round.
        shear: a row is moved by up to this share of its distance from the middle.
        shift: by up to so many pixels, in either direction.
        elastic: the points of a grid of 4x4 are each moved by up to so many pixels, and what lies between smoothly.
        gamma: pixels, from 0 to 1 between the least and the greatest of a round's, are raised to a power between 1 and
            1 + gamma, or taken to a root of as much.
    """
    rounds, count, _, height, width = images.shape
    places = _pixels(height, width).to(images)  # (H W, 2)
    own = torch.eye(2).to(images).expand(rounds, count, 2, 2)
    matrix = _matrices(own, numbers, rotation, scale, stretch, shear)
    moved = places @ matrix.mT  # (R, N, H W, 2)
    if shift:
        moved = moved + shift * numbers.uniform("shift", count, 1, 2)
    if elastic:
        bend = numbers.uniform("elastic", count, 2, CONTROL, CONTROL)
        across, down = (_between_points(size).to(images) for size in (width, height))
        moved = moved + elastic * (down @ bend @ across.mT).flatten(-2).mT  # (R, N, 2, H, W) -> (R, N, H W, 2)
    grid = moved * (2 / torch.tensor([width, height]).to(images))
    sampled = functional.grid_sample(
        images.flatten(0, 1),
        grid.view(-1, height, width, 2),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    low, high = (of.view(-1, 1, 1, 1, 1) for of in images.flatten(1).aminmax(dim=1))
    sampled = sampled.view(images.shape).clamp(low, high)  # beside an edge it is brighter than white
    if not gamma:
        return sampled
    powers = (1 + gamma) ** numbers.uniform("gamma", count)
    return low + (high - low) * ((sampled - low) / (high - low)) ** powers[..., None, None, None]


def _matrices(
    matrix: Tensor,
    numbers: EpochNumbers,
    rotation: float | None,
    scale: float | None,
    stretch: float | None,
    shear: float | None,
) -> Tensor:
    """Returns matrices (R, N, 2, 2) that say from which place each pixel comes, made of those that say its own."""
    rounds, count = matrix.shape[:2]
    if rotation:
        angle = math.radians(rotation) * numbers.uniform("rotation", count)
        turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
        matrix = matrix @ turned.view(rounds, count, 2, 2)
    if shear:
        matrix = matrix.clone()
        matrix[..., 1] += shear * numbers.uniform("shear", count)[..., None] * matrix[..., 0]
    if scale:
        matrix = matrix * (1 + scale * numbers.uniform("scale", count))[..., None, None]
    if stretch:
        across = (1 + stretch) ** numbers.uniform("stretch", count)
        matrix = matrix * torch.stack([across, 1 / across], -1)[..., None, :]
    return matrix


@lru_cache(maxsize=4)
def _pixels(height: int, width: int) -> Tensor:
    """Returns the places of pixels, (H W, 2): x and y from the middle."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5 - height / 2, torch.arange(width) + 0.5 - width / 2, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


@lru_cache(maxsize=4)
def _between_points(size: int) -> Tensor:
    """Returns how much each control point counts at each pixel of a side, (size, CONTROL): cubic interpolation."""
    points = torch.eye(CONTROL)[:, None, :, None]  # each alone: (CONTROL, 1, CONTROL, 1)
    between = functional.interpolate(points, size=(size, 1), mode="bicubic", align_corners=True)
    return between[:, 0, :, 0].T.contiguous()
