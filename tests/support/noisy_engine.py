"""An engine that answers nobody, writes a log as long as it is told, and a last line at its end."""

import signal
import sys

LINE = b"a line of the log\n"


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the last line"))
    sys.stderr.buffer.write(LINE * (int(sys.argv[1]) // len(LINE)))
    sys.stderr.flush()
    signal.pause()


if __name__ == "__main__":
    main()
