"""200 names that want to be somewhere else than where they are put."""

from itertools import product

UPS = (
    "../", "..\\", "./../", "a/../../", "..//", ".../../", "%2e%2e/", "%2e%2e%2f", "..%2f", "..%5c", "%252e%252e%252f", "..%c0%af",
    "\u2025/",
)  # fmt: skip
TARGETS = ("etc/passwd", "canary", "session_secret", "objects")
ODD = (
    "", ".", "..", "/", "//", "\\", "/etc/passwd", "//etc/passwd", "\\\\host\\share", "C:\\windows\\win.ini", "C:/x",
    "file:///etc/passwd", "a\0b", "\0", "../\0", "..\0/canary", "canary\n", "a/\r\nb", "\x1b[2J", "a/..", "a/.", "a//b", "/a/", "a/", "./a",
    "x/../../../canary", "..;/canary", "....//canary", "%00", "%2f", "%2fetc%2fpasswd", "/proc/self/environ", "/dev/stdin", "NUL:",
    "a" * 300, "../" * 80 + "canary", "/".join(["a"] * 200), "\u202e/..", "..\u2215canary", "a/../b", "~/../../canary",
    "$HOME/../canary", "models/../../session_secret", "\x7f/../x",
)  # fmt: skip
NAMES = [up * depth + target for up, depth, target in product(UPS, (1, 3, 8), TARGETS)] + list(ODD)
