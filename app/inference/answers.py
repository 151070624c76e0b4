"""Answers of models to requests, for the API and for the dashboard's playground."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import httpx
from anyio.to_thread import run_sync
from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection

from app.aliases import service as aliases
from app.aliases.traffic import Traffic
from app.auth.caller import Caller
from app.base.database import Database
from app.base.errors import ApiError, Forbidden, Unavailable
from app.base.flushing import flushing
from app.base.settings import Settings
from app.http.rates import enforce_tokens, state_rate
from app.inference import proxy, service
from app.inference.answer_stream import AnswerStream
from app.inference.engine_finder import EngineFinder
from app.inference.engine_traits import KnownTraits
from app.inference.forms import AnswerForm
from app.inference.in_flight import AnswersInFlight
from app.inference.known_aliases import KnownAliases, choose
from app.inference.known_targets import KnownTargets
from app.inference.questions import estimate_tokens, keep_whole, split
from app.inference.recording import make_recorder
from app.inference.refusals import ENGINE_UNAVAILABLE
from app.inference.replica_choice import ReplicaChoice
from app.inference.schemas import ChatCompletionRequest, InferenceRequest
from app.inference.service import EngineTarget
from app.inference.translation import Translation, translate
from app.inference.turns import EngineQueues
from app.inference.upstream import question_for
from app.inference.usage import Bill, UsageTally
from app.models import Scope
from app.models.alias import AliasTargets, is_upstream
from app.services import Services
from app.stored_answers.queue import AnswerQueue
from app.usage.questions import QuestionCount, QuestionCounts, QuestionKey

IGNORED_HEADER = "x-falqon-ignored"
# Refusals that say nothing of the model: of the key's rights and limits, of a client that has gone.
CALLERS_STATUSES = (403, 429, 499)
UPSTREAM_IDLE_SECONDS = 15.0  # of a connection; servers far away keep theirs for longer
STICKY_HEADER = "x-falqon-session"  # whose requests stay with one model of an alias


@dataclass(frozen=True, slots=True)
class Engines:
    """Connection of an API process to the engines."""

    client: httpx.AsyncClient
    upstream_client: httpx.AsyncClient
    finder: EngineFinder
    targets: KnownTargets
    replicas: ReplicaChoice
    queues: EngineQueues
    in_flight: AnswersInFlight
    traits: KnownTraits
    aliases: KnownAliases
    traffic: Traffic
    counts: QuestionCounts
    answer_queue: AnswerQueue


async def _engines(connection: HTTPConnection) -> Engines:
    engines: Engines = connection.app.state.engines
    return engines


EnginesDep = Annotated[Engines, Depends(_engines)]


@asynccontextmanager
async def open_engines(
    settings: Settings, database: Database, answer_queue: AnswerQueue
) -> AsyncIterator[Engines]:
    traffic, counts = Traffic(), QuestionCounts(settings)
    async with (
        proxy.make_client() as client,
        proxy.make_client(UPSTREAM_IDLE_SECONDS) as upstream_client,
        flushing("aliases", partial(aliases.write_traffic, database, traffic)),
        flushing("questions", partial(counts.write, database)),
    ):
        yield Engines(
            client,
            upstream_client,
            EngineFinder(),
            KnownTargets(),
            ReplicaChoice(),
            EngineQueues(),
            AnswersInFlight(),
            KnownTraits(),
            KnownAliases(),
            traffic,
            counts,
            answer_queue,
        )


async def answer(
    services: Services,
    engines: Engines,
    caller: Caller,
    request: Request,
    body: InferenceRequest,
    form: AnswerForm | None = None,
) -> Response:
    """Return the response of the model that the request names, or that an alias stands for, in a
    form; without one, as the request has it. Each model of an alias has its requests counted.
    """
    name = body.model
    targets = await find_targets(services, engines, caller, name)
    if targets is None:
        form = form or _make_form(engines, caller, body)
        return await _answer(services, engines, caller, request, body, form)
    model = choose(targets, name, request.headers.get(STICKY_HEADER) or body.sticky_key)
    count = partial(engines.traffic.add, caller.project_id, name, model)
    started = time.monotonic()
    with counted_failures(count):
        body = body.model_copy(update={"model": model})
        form = form or _make_form(engines, caller, body)
        response = await _answer(services, engines, caller, request, body, form)
    seconds = time.monotonic() - started
    if isinstance(response, AnswerStream):
        response.resources.callback(lambda: count(None if response.has_failed else seconds))
    else:
        count(seconds)
    return response


@contextmanager
def counted_failures(count: Callable[[None], None]) -> Iterator[None]:
    """Count an error, unless it says nothing of the model."""
    try:
        yield
    except ApiError as error:
        if error.status not in CALLERS_STATUSES:
            count(None)
        raise


def refuse_agents(caller: Caller, model_id: str) -> None:
    if is_upstream(model_id) and caller.scope is Scope.AGENT:
        raise Forbidden("An agent's key asks no upstream: no budget counts that.", param="model")


def _make_form(engines: Engines, caller: Caller, body: InferenceRequest) -> AnswerForm:
    recorder = None
    # Code that asks an upstream does not know yet that answers may be kept here.
    wants_store = body.store or (body.store is None and is_upstream(body.model))
    if isinstance(body, ChatCompletionRequest) and wants_store and caller.stores_answers:
        recorder = make_recorder(engines.answer_queue, caller, body)
    return AnswerForm(wants_usage=body.wants_usage, recorder=recorder)


async def find_targets(
    services: Services, engines: Engines, caller: Caller, name: str
) -> AliasTargets | None:
    project_id = caller.project_id
    if not engines.aliases.is_known(project_id, name):

        def read() -> AliasTargets | None:
            with services.database.look_up() as session:
                return aliases.find_targets(session, project_id, name)

        engines.aliases.keep(project_id, name, await run_sync(read))
    return engines.aliases.find(project_id, name)


async def _answer(
    services: Services,
    engines: Engines,
    caller: Caller,
    request: Request,
    body: InferenceRequest,
    form: AnswerForm,
) -> Response:
    """Return the response of the model's engine, once that is ready and it is the project's turn.

    The usage counts against the caller's API key; raises `RateLimited` if it has no tokens left, or
    too many outstanding answers.
    """
    refuse_agents(caller, body.model)
    enforce_tokens(request)
    of_caller = (caller.project_id, body.model)
    content = body.for_engine()
    answers = split(content)
    questions = keep_whole(content) if is_upstream(body.model) else answers
    tally = UsageTally(estimate_tokens(questions), len(questions))

    def charge(num_tokens: int) -> None:
        state_rate(request, services.limiter.use_tokens(caller.key_id, num_tokens))

    def count(*numbers: int) -> None:
        key = QuestionKey(caller.project_id, caller.key_id, body.model)
        engines.counts.add(key, QuestionCount(*numbers))

    bill = Bill(tally, charge, count)

    async def ask(target: EngineTarget) -> Response:
        def give_up() -> None:
            engines.targets.forget(*of_caller)
            service.give_up(services.database, target)

        exchange = proxy.Exchange(
            engines.upstream_client if target.is_upstream else engines.client,
            target,
            engines.queues.of(target),
            body.engine_path,
            proxy.ProxyCallbacks(partial(service.note_use, services.database, target), give_up),
            tally,
            body.prompt_field,
        )
        if target.is_upstream:
            translation = Translation(*question_for(body))
        else:
            key = (target.address, target.token, body.model)
            in_own_words = partial(translate, body, engines.traits, key, exchange.post)
            translation = await proxy.while_connected(in_own_words, request, exchange)
        if translation.content is None:
            if not tally.has_beside:  # the engine has told what it read for the echoes
                for question in questions:
                    tally.add_sent(question)
            return JSONResponse(translation.answer, headers={"cache-control": "no-store"})
        divide = keep_whole if target.is_upstream else split
        engine_requests = divide(translation.content)
        rewriter = translation.rewriter
        if not body.stream:
            return await proxy.fetch_answer(exchange, engine_requests, request, rewriter, form)
        first = await proxy.open_first(exchange, engine_requests[0], request)
        return AnswerStream(exchange, engine_requests, first, bill, form, rewriter)

    async def ask_replica(target: EngineTarget) -> Response:
        with ExitStack() as held:
            held.enter_context(engines.replicas.hold(target))
            response = await ask(target)
            resources.callback(held.pop_all().close)  # a stream goes on
            return response

    async def ask_replicas(targets: Sequence[EngineTarget]) -> Response:
        """Ask another replica when one is unavailable: its answer has not begun."""
        remaining = list(targets)
        while True:
            target = engines.replicas.choose(remaining)
            remaining.remove(target)
            try:
                return await ask_replica(target)
            except Unavailable as error:
                if error.code == ENGINE_UNAVAILABLE:
                    engines.replicas.avoid(target)
                if not remaining:
                    raise

    async def ask_known_or_find() -> Response:
        if known := engines.targets.find(*of_caller):
            await bill.open()
            with suppress(Unavailable):  # the engines may have gone since the query
                return await ask_replicas(known)
        targets = await engines.finder.find(services, caller, body.model)
        engines.targets.keep(*of_caller, targets)
        await bill.open()
        return await ask_replicas(targets)

    async with AsyncExitStack() as resources:
        max_answers = services.settings.answers_per_key
        resources.enter_context(engines.in_flight.hold(caller.key_id, len(answers), max_answers))
        resources.push_async_callback(bill.settle)
        response = await ask_known_or_find()
        ignored = () if is_upstream(body.model) else body.ignored_fields
        if body.store and not (isinstance(body, ChatCompletionRequest) and caller.stores_answers):
            ignored = (*ignored, "store")
        if ignored:
            response.headers[IGNORED_HEADER] = ", ".join(ignored)
        if isinstance(response, AnswerStream):
            response.resources = resources.pop_all()
        return response
