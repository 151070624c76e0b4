"""Chat templates written by an enemy. A canary is anything that a rendering may not do: start a
program, open a socket, write a file.
"""

import gc
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError, ModelError, UserError
from falqon_core.contract.messages import ENDLESS_TEMPLATE
from falqon_core.data import chat_template, resource_limits
from falqon_core.data.chat_template import render
from falqon_core.records.line_parser import parse_record
from tests.support.backend import ROOT

CHAT = parse_record(
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]}'
)
RUN = "os.system('touch canary')"
INJECTIONS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__()[80].__init__.__globals__['sys'].modules['os']"
    ".system('touch canary') }}",
    "{{ messages.__class__.__base__ }}{{ messages.__init__.__globals__ }}",
    f"{{{{ cycler.__init__.__globals__.{RUN} }}}}",
    f"{{{{ joiner.__init__.__globals__.{RUN} }}}}",
    f"{{{{ namespace.__init__.__globals__.{RUN} }}}}",
    f"{{{{ lipsum.__globals__.{RUN} }}}}",
    f"{{{{ lipsum['__glo' ~ 'bals__'].{RUN} }}}}",
    "{{ lipsum|attr('__globals__')|attr('get')('os')|attr('system')('touch canary') }}",
    "{{ dict.mro() }}{{ dict.__subclasses__() }}",
    f"{{{{ self.__init__.__globals__.__builtins__.__import__('os').{RUN} }}}}",
    f"{{{{ self._TemplateReference__context.cycler.__init__.__globals__.{RUN} }}}}",
    f"{{{{ raise_exception.__globals__['__builtins__']['__import__']('os').{RUN} }}}}",
    f"{{{{ strftime_now.__globals__.{RUN} }}}}",
    "{{ strftime_now.__closure__ }}{{ raise_exception.__code__.co_consts }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{0.__class__.__mro__}'|format(messages) }}{{ '{x.__class__}'.format_map({'x': messages}) "
    "}}",
    "{{ ('%s' % messages.__class__).__class__.__base__ }}",
    "{% set x = messages.append({'role': 'system'}) %}",
    "{% set x = messages.clear() %}{% set y = messages[0].update({'content': 'x'}) %}",
    "{% set ns = namespace(__class__=1) %}{% set ns.__init__ = 2 %}",
    "{% for x in [].__class__.__base__.__subclasses__() %}{{ x.__name__ }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch canary') }}",
    "{% extends '/etc/passwd' %}",
    "{{ get_flashed_messages.__globals__ }}{{ config.items() }}{{ request.application.__globals__ "
    "}}",
    f"{{{{ (messages|map(attribute='__class__')|list)[0].__init__.__globals__.{RUN} }}}}",
    "{{ messages|map('attr', '__class__')|map('attr', '__mro__')|list }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{{ m.__globals__ }}{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{{ loop.__init__.__globals__ }}{% for a in [1] %}{{ loop._iterator.gi_frame.f_globals }}{% "
    "endfor %}",
    "{{ (x for x in []).gi_frame }}",
    "{{ messages[0].__getitem__.__self__.__class__ }}",
    "{{ ''['__class__']['__base__']['__subclasses__']() }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f')|attr('\\x5f\\x5fbase\\x5f\\x5f') }}",
]
BOMBS = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
    "{{ 'a' * 10**11 }}",
    "{{ ('a' * 10**9)|replace('a', 'b' * 10**9) }}",
    "{{ 'a'|center(10**12) }}",
    "{{ '%1000000000000d' % 1 }}",
    "{{ '{:>1000000000000}'.format(1) }}",
    "{{ [0] * 10**12 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "-" * 30000 + "1 }}",
    "{% if 1 %}" * 3000,
    "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% "
    "endfor %}{{ ns.s }}",
    "{{ 'a' * (40 * 2**20) }}",
]

_events: list[str] = []
# the thread of the test: servers of other tests have theirs in this process
_watched: list[int] = []
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.",
    "socket.",
    "os.remove",
    "os.rename",
    "os.mkdir",
)


@pytest.fixture(scope="module", autouse=True)
def garbage_of_other_tests() -> None:
    """Keep the collector from it: a limit that strikes while it cleans up is reported there, and
    not to the rendering.
    """
    gc.collect()
    gc.freeze()


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if threading.get_ident() in _watched and (
        event.startswith(FORBIDDEN) or (event == "open" and set(str(arguments[1])) & set("wax+"))
    ):
        _events.append(event)


sys.addaudithook(_watch)


@pytest.fixture
def canaries() -> Iterator[list[str]]:
    """What the interpreter itself saw happen while the test ran."""
    _events.clear()
    _watched.append(threading.get_ident())
    yield _events
    _watched.clear()


def outcome(template: str, tokenizer: PreTrainedTokenizerBase) -> UserError | str:
    tokenizer.chat_template = template
    try:
        return render(CHAT, tokenizer).text  # type: ignore[arg-type]
    except (DatasetError, ModelError) as error:
        return error


def test_the_canaries_would_sing(canaries: list[str]) -> None:
    subprocess.run(["true"], check=True)
    assert canaries


@pytest.mark.parametrize("template", INJECTIONS)
def test_nothing_of_python_is_reached(
    template: str, unmarked: PreTrainedTokenizerBase, canaries: list[str]
) -> None:
    result = outcome(template, unmarked)

    assert canaries == []
    assert isinstance(result, UserError) or not any(
        word in result for word in ("<class", "<module", "<function", "<built-in", "root:")
    )


@pytest.mark.parametrize("template", BOMBS, ids=lambda template: template[:40])
def test_time_memory_and_output_have_an_end(
    template: str, unmarked: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource_limits, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(resource_limits, "TEMPLATE_MEMORY_BYTES", 2**28)

    result = outcome(template, unmarked)

    assert isinstance(result, UserError)
    assert len(str(result)) < 2 * chat_template.MAX_REASON_CHARACTERS


def test_an_uninterruptible_template_ends_the_process() -> None:
    limits = (
        "from falqon_core.data import resource_limits as b; "
        "b.CPU_SECONDS, b.FATAL_CPU_SECONDS = 0.1, 0.3"
    )
    program = f"{limits}; b.run_bounded(lambda: sum(range(10**12)))"

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False
    )

    assert done.returncode == ENDLESS_TEMPLATE


def test_the_limits_are_gone_afterwards(unmarked: PreTrainedTokenizerBase) -> None:
    before = signal.getsignal(signal.SIGVTALRM), resource.getrlimit(resource.RLIMIT_AS)
    outcome("{{ 'a' * 10**12 }}", unmarked)
    assert (signal.getsignal(signal.SIGVTALRM), resource.getrlimit(resource.RLIMIT_AS)) == before
    assert (
        signal.getitimer(signal.ITIMER_VIRTUAL)
        == signal.getitimer(signal.ITIMER_PROF)
        == (0.0, 0.0)
    )


def test_a_reason_written_by_the_template_steers_no_terminal(
    unmarked: PreTrainedTokenizerBase,
) -> None:
    result = outcome(r"{{ raise_exception('\x1b[2J\x00\x9b31m gone ' ~ 'x' * 100000) }}", unmarked)

    assert str(result).isprintable()
    assert len(str(result)) < 2 * chat_template.MAX_REASON_CHARACTERS
