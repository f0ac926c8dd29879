"""Errors of data, wherever they arise."""

import pytest
from torch.utils.data import DataLoader, Dataset

from tasks.spec import DataError


class Broken(Dataset[int]):
    """Two items that cannot be read, for a reason."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        try:
            return [][index]
        except IndexError as error:
            raise DataError("a.csv:3: it has 2 cells; write 3") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_loading_process_is_that_of_this_one(workers: int) -> None:
    with pytest.raises(DataError) as raised:
        next(iter(DataLoader(Broken(), num_workers=workers)))
    assert str(raised.value) == "a.csv:3: it has 2 cells; write 3"
