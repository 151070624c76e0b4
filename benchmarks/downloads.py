"""How fast a file comes down from the API, against nginx serving the very same file on the same
machine in the same run.

    make downloads python -m benchmarks.downloads [--rounds 9] [--gigabytes 1] [--output
    benchmarks/results/downloads.md]

Both get the file out of the page cache and send it over loopback; the client is curl, which throws
it away. Rounds interleave the two, so that a busy machine hits both; the ratio is the median of the
rounds' ratios. nginx is the distribution's (`apt-get install nginx-light`), one worker process with
`sendfile`, and asks nobody for a key; ours is `falqon api` as `falqon up` starts it, one process.
"""

import argparse
import grp
import os
import pwd
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.api_process import KEY, ApiProcess
from tests.support.service import free_port
from tests.support.waiting import wait_for

GOAL = 0.8
MODEL = "measured"
CHUNK = os.urandom(2**20)
NGINX = """
daemon off; master_process on; worker_processes 1; user {user} {group};
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class DownloadRow:
    what: str
    ours: float  # bytes a second
    nginx: float
    ratio: float


@contextmanager
def nginx(folder: Path, root: Path) -> Iterator[str]:
    folder.mkdir()
    port = free_port()
    user = pwd.getpwuid(os.getuid())
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(
            user=user.pw_name,
            group=grp.getgrgid(user.pw_gid).gr_name,
            folder=folder,
            root=root,
            port=port,
        )
    )
    process = subprocess.Popen(["nginx", "-e", str(folder / "error.log"), "-c", str(config)])
    try:
        wait_for(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def rate(urls: list[str]) -> float:
    """Bytes a second of all together: each is fetched by a curl of its own, at once."""
    command = [
        "curl",
        "-sSf",
        "-o",
        os.devnull,
        "-H",
        f"Authorization: Bearer {KEY}",
        "-w",
        "%{size_download} %{time_total}",
    ]
    running = [subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True) for url in urls]
    measured = [process.communicate()[0].split() for process in running]
    assert all(process.returncode == 0 for process in running)
    return sum(int(size) for size, _ in measured) / max(float(seconds) for _, seconds in measured)


def compared(what: str, ours: list[str], theirs: list[str], rounds: int) -> DownloadRow:
    rate(ours), rate(theirs)
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds)]
    medians = [statistics.median(figures) for figures in zip(*pairs, strict=True)]
    return DownloadRow(
        what, medians[0], medians[1], statistics.median(first / second for first, second in pairs)
    )


def measure(folder: Path, gigabytes: float, rounds: int) -> list[DownloadRow]:
    api = ApiProcess(folder / "api", {"FALQON_REQUESTS_PER_MINUTE": "1000000"})
    try:
        api.add_model(
            MODEL, {"weights": (CHUNK for _ in range(int(gigabytes * 10**9) // len(CHUNK)))}
        )
        path = api.storage.local_path(f"models/{MODEL}/weights")
        assert path is not None
        with nginx(folder / "nginx", path.parent) as base:
            whole = f"{api.url}/v1/models/{MODEL}/artifacts/weights"
            theirs = f"{base}/weights"
            assert (
                httpx.head(theirs).headers["content-length"]
                == api.http.head(whole).headers["content-length"]
            )
            archive = whole.replace("artifacts/weights", "archive")
            hub = f"{api.url}/hub/{MODEL}/resolve/main/weights"
            return [
                compared("one file, one reader", [whole], [theirs], rounds),
                compared(
                    "one file, 8 readers at once", [whole] * 8, [theirs] * 8, max(1, rounds // 3)
                ),
                compared("the same through `/hub`", [hub], [theirs], rounds),
                compared("the model as one tar", [archive], [theirs], rounds),
            ]
    finally:
        api.close()


def report(rows: list[DownloadRow], gigabytes: float, rounds: int) -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = (
        subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
        .stderr.strip()
        .rpartition(": ")[2]
    )
    load = ", ".join(f"{figures:.2f}" for figures in os.getloadavg())
    lines = [
        "# Downloads against nginx",
        "",
        f"{os.cpu_count()} cores ({model[1] if model else 'unknown'}), {version}, load average at "
        f"the end {load}.",
        f"A file of {gigabytes:g} GB in the page cache, over loopback to curl; medians of "
        f"{rounds} rounds, both in turn.",
        "",
        "```",
        "python -m benchmarks.downloads",
        "```",
        "",
        f"| | ours | nginx | ratio | at least {GOAL}? |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        holds = "yes" if row.ratio >= GOAL else "no"
        lines.append(
            f"| {row.what} | {row.ours / 1e6:,.0f} MB/s | {row.nginx / 1e6:,.0f} MB/s | "
            f"{row.ratio:.2f} | {holds} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Downloads from the API against nginx.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/downloads.md"))
    options = parser.parse_args()
    if shutil.which("nginx") is None:
        raise SystemExit("There is no nginx to compare with: apt-get install nginx-light")
    with tempfile.TemporaryDirectory(prefix="fq-downloads-") as folder:
        text = report(
            measure(Path(folder), options.gigabytes, options.rounds),
            options.gigabytes,
            options.rounds,
        )
    options.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
