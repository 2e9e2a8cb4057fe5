"""Parts of a batch in which Kafka refuses a message: half as many records until it takes them, then
the one that it refuses alone. Pure.
"""

from __future__ import annotations

from penstock.runtime.kafka.transaction import MessageRefused
from penstock_edge_gateway.hub.forward.write import Reached


class Parts:
    def __init__(self, records: int) -> None:
        """`records`: those of the whole batch."""
        self.records = records
        """Number of records to try next."""
        self.odd: MessageRefused | None = None
        """Refusal of the next record alone; None where none was refused alone."""
        self.reached: Reached | None = None
        """Outcome of all that was taken; None while nothing was."""
        self._all = records
        self._largest = 0  # number of records that were taken together

    def refused(self, why: MessageRefused) -> bool:
        """Makes the next part smaller. False where it cannot be: the letter is refused, too, or may pass
        what the record is refused for.
        """
        if self.odd or (self.records <= 1 and why.may_pass):
            return False
        if self.records > 1:
            self.records //= 2
        else:
            self.odd = why
        return True

    def taken(self, reached: Reached) -> None:
        """Goes on behind a part, with the largest that was taken so far."""
        if self.odd:
            self.odd, self.records = None, self._largest or self._all
        else:
            self._largest = max(self._largest, self.records)
        rejected = self.reached.rejected if self.reached else {}
        self.reached = Reached(reached.sequence, {**rejected, **reached.rejected})
