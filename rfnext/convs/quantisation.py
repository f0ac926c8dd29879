"""Quantisation by torch.ao knows a conv by its class, and leaves one of any other class in floats, without a word."""

from typing import Any


class RefusesQuantisation:
    """Raises ValueError where `torch.ao.quantization` prepares a conv of another class than torch's.

    It does so by a `qconfig`. A conv that had one before it was taken over keeps it: it is prepared already.
    """

    before_quantising: str
    """What a user must do first."""

    @property
    def qconfig(self) -> Any:
        """As torch has set it."""
        try:
            return vars(self)["qconfig"]
        except KeyError:
            raise AttributeError("qconfig") from None

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        """Raises ValueError unless value is None or there is one already."""
        if value is not None and vars(self).get("qconfig") is None:
            raise ValueError(f"quantisation would leave this layer in floats: {self!r}: {self.before_quantising}")
        vars(self)["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        """As torch does where it is done."""
        del vars(self)["qconfig"]
