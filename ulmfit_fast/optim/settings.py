"""Settings of the parameter groups as the op takes them, also where a CUDA graph reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.optim.checks import SETTINGS, check_flags, check_settings, name_of

Groups = Sequence[Mapping[str, Any]]


def rows_of(
    groups: Groups, place: str = ""
) -> tuple[list[list[float]], list[tuple[int, int, Tensor]]]:
    """Return lr, weight_decay, beta1, beta2 and eps of every group.

    Args:
        groups: parameter groups; lr and betas may be tensors with one element.
        place: what to call the place of the groups in an error, such as "state dict, ".

    Returns:
        rows: one for each group; 0 where the number is in the memory of a GPU.
        elsewhere: row, column and tensor of those numbers.

    Raises:
        ValueError: a setting that is no number, or out of its range; a flag that is not supported.
    """
    rows, elsewhere = [], []
    for index, group in enumerate(groups):
        where = f"{place}group {index}"
        check_flags(group, where)
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"{where}: betas is {betas!r}; give two numbers")
        row = [group["lr"], group["weight_decay"], *betas, group["eps"]]
        if not all(type(value) is float for value in row):
            for column, value in enumerate(row):
                if isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "cpu":
                    elsewhere.append((index, column, value))
                    value = 0.0
                row[column] = number(value, f"{where}: {SETTINGS[column]}")
        check_settings(row, where)
        rows.append(row)
    return rows, elsewhere


def number(value: Any, name: str) -> float:
    """Return a setting as a float.

    Raises:
        ValueError: it is no number, nor a tensor with one element on the CPU.
    """
    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
        return float(value)
    found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise ValueError(f"{name} is {found}; give a number or a tensor with one element")


class LiveSettings:
    """The groups' settings in a float64 tensor [groups, 5], and what a CUDA graph needs of them.

    Args:
        capturable: keep them on the GPU, where a replay reads what was sent last.
    """

    def __init__(self, capturable: bool) -> None:
        self.capturable = capturable
        self.table: Tensor | None = None
        self.sent: list[list[float]] = []

    def tensor(self, groups: Groups, device: torch.device, capturing: bool) -> Tensor:
        """Return the tensor for a step on a device.

        Raises:
            ValueError: as rows_of.
            RuntimeError: a graph is being captured, and settings changed since they were sent.
        """
        rows, elsewhere = rows_of(groups)
        if device.type == "cpu" or not (self.capturable or elsewhere):
            return torch.tensor(rows, dtype=torch.float64, device="cpu")
        table = self.table
        if table is None or not capturing:
            table = self.send(rows, device)
        elif rows != self.sent:
            raise RuntimeError(
                "settings changed since the last step, and a capture cannot send them: call "
                "refresh() before the CUDA graph is captured"
            )
        for index, column, value in elsewhere:
            table[index, column].copy_(value.reshape(()))
        return table

    def send(self, rows: list[list[float]], device: torch.device) -> Tensor:
        """Bring the table on a GPU up to date, without waiting for it, and return it."""
        table = self.table
        if table is None or table.device != device or len(table) != len(rows):
            table = torch.empty(len(rows), 5, dtype=torch.float64, device=device)
            self.table, self.sent = table, []
        if rows != self.sent:
            # torch keeps pinned memory from being used again before the copy is done.
            pinned = torch.tensor(rows, dtype=torch.float64, device="cpu").pin_memory()
            table.copy_(pinned, non_blocking=True)
            self.sent = rows
        return table

    def are_sent(self, groups: Groups) -> bool:
        """Say whether the table on the GPU holds what the groups say now."""
        return self.table is None or rows_of(groups)[0] == self.sent

    def refresh(self, groups: Groups) -> None:
        """Send the groups' settings where the last step read them."""
        if self.table is not None:
            self.send(rows_of(groups)[0], self.table.device)

    def check_capture(self, groups: Groups) -> None:
        """Raise RuntimeError if a graph would keep settings, or not move a parameter, for ever."""
        if not self.capturable:
            raise RuntimeError(
                "a CUDA graph would keep this step's learning rates for ever: make "
                "LayerwiseAdamW(capturable=True)"
            )
        for index, group in enumerate(groups):
            for place, param in enumerate(group["params"]):
                if param.grad is None and not group["frozen"]:
                    raise RuntimeError(
                        f"{name_of(group, place, f'group {index}')} has no gradient, and the CUDA "
                        'graph would never move it: freeze its group ("frozen": True) or give it a '
                        "gradient before the capture"
                    )
