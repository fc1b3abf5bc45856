"""How many tokens the KV cache holds when sequences share their beginnings."""

from __future__ import annotations


class _Stretch:
    """Consecutive tokens that the same sequences hold."""

    __slots__ = ("length", "owners")

    def __init__(self, length: int, owners: int = 1) -> None:
        self.length, self.owners = length, owners


class Cells:
    """The account of a cache in which a copied prefix takes no room: ``used`` tokens in all."""

    def __init__(self, n_seq: int) -> None:
        self._chains: list[list[_Stretch]] = [[] for _ in range(n_seq)]
        self.used = 0

    def append(self, seq: int, count: int) -> None:
        """``count`` more tokens at the end of a sequence."""
        chain = self._chains[seq]
        if chain and chain[-1].owners == 1:
            chain[-1].length += count
        elif count:
            chain.append(_Stretch(count))
        self.used += count

    def truncate(self, seq: int, length: int) -> None:
        """Only the first ``length`` tokens of a sequence stay."""
        kept = self._split(seq, length)
        for stretch in self._chains[seq][kept:]:
            stretch.owners -= 1
            if not stretch.owners:
                self.used -= stretch.length
        del self._chains[seq][kept:]

    def copy(self, src: int, dst: int, length: int) -> None:
        """The first ``length`` tokens of ``src`` become those of ``dst``, which keeps nothing else."""
        if src == dst:
            self.truncate(dst, length)
            return
        self.truncate(dst, 0)
        kept = self._split(src, length)
        for stretch in self._chains[src][:kept]:
            stretch.owners += 1
            self._chains[dst].append(stretch)

    def own(self, seq: int) -> int:
        """Tokens that would be freed if a sequence were dropped."""
        return sum(stretch.length for stretch in self._chains[seq] if stretch.owners == 1)

    def _split(self, seq: int, length: int) -> int:
        """Cut every chain that holds the stretch in which ``length`` falls; how many stretches come before."""
        at = 0
        for index, stretch in enumerate(self._chains[seq]):
            if at == length:
                return index
            if at + stretch.length > length:
                rest = _Stretch(at + stretch.length - length, stretch.owners)
                stretch.length = length - at
                for chain in self._chains:
                    if stretch in chain:
                        chain.insert(chain.index(stretch) + 1, rest)
                return index + 1
            at += stretch.length
        return len(self._chains[seq])
