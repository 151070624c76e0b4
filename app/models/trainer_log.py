"""Output of a trainer beside its messages. A log keeps its first and its newest lines."""

from pydantic import BaseModel, ConfigDict, Field

HEAD_BYTES = 64 * 2**10
TAIL_BYTES = 2**20


class TrainerLog(BaseModel):
    """Log in whole lines. `left_out`: number of bytes between `head` and `tail`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str = Field("", max_length=HEAD_BYTES)
    left_out: int = Field(0, ge=0, lt=2**62)
    tail: str = Field("", max_length=TAIL_BYTES)

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes written, including those left out."""
        return len(self.head.encode()) + self.left_out + len(self.tail.encode())

    def text_after(self, position: int) -> str:
        """Return the text after so many bytes, with a line that counts the bytes left out."""
        head, tail = self.head.encode(), self.tail.encode()
        tail_begins = len(head) + self.left_out
        left_out = tail_begins - max(position, len(head))
        note = f"[{left_out:,} bytes are left out here]\n" if left_out > 0 else ""
        kept = head[position:] + note.encode() + tail[max(0, position - tail_begins) :]
        return kept.decode(errors="replace")
