"""Pooling a feature map by region: spatial separation at the network's head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RegionPool"]


class RegionPool(nn.Module):
    """Average-pools each constituent's region of a feature map.

    Where a plain network pools its last feature map ``[B, D, h, w]`` over the whole canvas, this
    pools the cells that each region covers, a cell at a border counting by the fraction of it
    that the region covers. Where later regions lie over an earlier one, only what the earlier one
    still shows counts. A region that shows nothing (an absent constituent, or a blend) pools the
    whole map. The region of the whole canvas gives the global average pool, up to rounding.

    Constituents of a layout by ``@mixpipe.layout`` have no rectangles: with their index map each
    cell counts by the fraction of its pixels that show the constituent, and regions, here only
    bounding boxes, are not looked at.

    Shape:
        - maps: floating ``[B, D, h, w]``
        - regions: int32 ``[B, K, 4]``, ``(y0, x0, y1, x1)`` in canvas pixels
        - canvas: ``(H, W)`` pixels
        - index_map: uint8 ``[B, H, W]``, the constituent each pixel shows, or None
        - output: ``[B, K, D]`` in the map's dtype

    Example:
        >>> maps = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> halves = torch.tensor([[[0, 0, 8, 4], [0, 4, 8, 8]]], dtype=torch.int32)
        >>> RegionPool()(maps, halves, (8, 8)).flatten().tolist()
        [1.0, 2.0]
    """

    def forward(
        self,
        maps: Tensor,
        regions: Tensor,
        canvas: tuple[int, int],
        index_map: Tensor | None = None,
    ) -> Tensor:
        """Pool ``maps`` by ``regions``, or by ``index_map``; see the class."""
        if maps.ndim != 4:
            raise ValueError(f"maps: expected [B, D, h, w], got shape {tuple(maps.shape)}")
        if regions.ndim != 3 or regions.shape[0] != maps.shape[0] or regions.shape[2] != 4:
            raise ValueError(
                f"regions: expected [{maps.shape[0]}, K, 4] for maps of shape "
                f"{tuple(maps.shape)}, got {tuple(regions.shape)}"
            )
        grid = (maps.shape[2], maps.shape[3])
        if index_map is None:
            shares = cell_shares(regions, canvas, grid)
        elif index_map.shape != (maps.shape[0], *canvas):
            raise ValueError(
                f"index_map: expected [{maps.shape[0]}, {canvas[0]}, {canvas[1]}], one number a "
                f"pixel of the canvas, got {tuple(index_map.shape)}"
            )
        else:
            shares = mapped_cell_shares(index_map, regions.shape[1], grid)
        shares = shares.to(maps.dtype).flatten(2)  # [B, K, hw]
        return torch.bmm(shares, maps.flatten(2).transpose(1, 2))


def cell_shares(regions: Tensor, canvas: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The weight of each cell of a ``grid`` in each region's mean: float32 ``[B, K, h, w]``.

    Weights of one region sum to 1.
    """
    num = regions.shape[1]
    edges = regions.float()
    # What a constituent shows is its own region less the union of the later ones' parts of it: by
    # inclusion and exclusion, a sum over all sets of constituents whose first it is.
    sets = torch.arange(1, 2**num, device=regions.device)[:, None]  # [S, 1], bit k: k is a member
    bits = 2 ** torch.arange(num, device=regions.device)
    members = (sets & bits) > 0  # [S, K]
    sign = 1.0 - 2.0 * ((members.sum(1) - 1) % 2)
    first = (sets & -sets) == bits  # the lowest bit
    # What all of a set cover.
    outside = ~members[:, :, None]
    low = edges[:, None, :, :2].masked_fill(outside, -torch.inf).amax(2)  # [B, S, 2]: y and x
    high = edges[:, None, :, 2:].masked_fill(outside, torch.inf).amin(2)
    rows = _coverage(low[..., 0], high[..., 0], canvas[0], grid[0])  # [B, S, h]
    columns = _coverage(low[..., 1], high[..., 1], canvas[1], grid[1])  # [B, S, w]
    shown = torch.einsum("bsh,bsw,sk->bkhw", rows, columns, sign[:, None] * first)
    return _as_mean(shown.clamp_min(0))  # a difference may be a rounding below nothing


def mapped_cell_shares(index_map: Tensor, num: int, grid: tuple[int, int]) -> Tensor:
    """As `cell_shares`, of ``num`` constituents that an index map ``[B, H, W]`` places."""
    rows = _pixel_coverage(index_map.shape[1], grid[0], index_map.device)
    columns = _pixel_coverage(index_map.shape[2], grid[1], index_map.device)
    masks = constituent_masks(index_map, num).to(rows.dtype)
    return _as_mean(rows @ masks @ columns.T)


def constituent_masks(index_map: Tensor, num: int) -> Tensor:
    """Bool ``[B, num, H, W]``: the pixels that show each constituent."""
    indices = torch.arange(num, dtype=index_map.dtype, device=index_map.device)
    return index_map[:, None] == indices[:, None, None]


def _as_mean(shown: Tensor) -> Tensor:
    """Parts ``[B, K, h, w]`` of cells as weights of a mean; of all cells where nothing shows."""
    total = shown.sum(dim=(2, 3), keepdim=True)
    everywhere = 1.0 / (shown.shape[2] * shown.shape[3])
    return torch.where(total > 0, shown / total.clamp_min(1e-12), everywhere)


def _pixel_coverage(length: int, cells: int, device: torch.device) -> Tensor:
    """The part ``[cells, length]`` of each cell that is each pixel's."""
    pixels = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    return _coverage(pixels, pixels + 1, length, cells).squeeze(1).T


def _coverage(low: Tensor, high: Tensor, length: int, cells: int) -> Tensor:
    """The fraction of each of ``cells`` equal cells of ``length`` pixels in [low, high)."""
    size = length / cells
    start = torch.arange(cells, device=low.device) * size
    cover = torch.minimum(high[..., None], start + size) - torch.maximum(low[..., None], start)
    return cover.clamp_min(0) / size
