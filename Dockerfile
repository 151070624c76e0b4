# Three images from one file: `api` has no torch, `worker` has everything a training needs, `serving` has vLLM too.
# `worker` built with TORCH_INDEX is one for CPUs.
# Dependencies come before the code, so that a commit downloads none of them again.
FROM node:22-slim AS assets
WORKDIR /srv
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM scratch AS code
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY worker worker
COPY falqon_core falqon_core
COPY migrations migrations

FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv
RUN useradd --create-home --uid 10001 falqon \
 && mkdir -p -m 700 /var/lib/falqon && chown falqon /var/lib/falqon
ENV FALQON_DATA_DIR=/var/lib/falqon
VOLUME /var/lib/falqon
COPY requirements /requirements
RUN pip install --no-deps --require-hashes -r /requirements/api.txt

FROM base AS api
COPY --from=assets /srv/node_modules node_modules
COPY --from=code / ./
# The editable install keeps `node_modules` beside the code, where the API looks for it.
RUN pip install --no-deps --no-build-isolation --editable .
USER falqon
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["falqon", "api", "--host", "0.0.0.0", "--port", "8000", "--grace", "20"]

FROM base AS worker
# Triton compiles a part of itself when a kernel first runs.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# A package index whose torch is built for CPUs. Empty: pip's own, whose torch for x86-64 Linux brings CUDA's libraries (3 GB).
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --index-url "$TORCH_INDEX" "$(grep '^torch' /requirements/torch.txt)"; \
    else \
      pip install -r /requirements/torch.txt; \
    fi \
 && pip install --no-deps --require-hashes -r /requirements/worker.txt
COPY --from=code / ./
RUN pip install --no-deps --no-build-isolation --editable .
USER falqon
# What a GPU would need at the first kernel fails here instead: the compiler, the headers, ptxas.
RUN if [ -z "$TORCH_INDEX" ]; then python -m falqon_core.ops.toolchain; fi
# The container gets `nvidia-smi` too: by it a worker learns which card it has.
ENV FALQON_ALIVE_FILE=/tmp/falqon-worker-alive NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A worker touches the file whenever it looks for work (FALQON_POLL) and whenever it renews the lease of a job (FALQON_HEARTBEAT).
HEALTHCHECK --interval=30s --timeout=3s --start-period=60s CMD test -n "$(find "$FALQON_ALIVE_FILE" -mmin -2)"
# A checkpoint is written before the process leaves; give it the time (docker stop --time, stop_grace_period).
STOPSIGNAL SIGTERM
CMD ["falqon", "worker", "--queue", "gpu"]

# A worker that answers for models from a card. vLLM has an environment of its own: neither it nor the trainer decides the other's versions.
FROM worker AS serving
USER root
RUN python -m venv /opt/vllm \
 && /opt/vllm/bin/pip install --no-deps --require-hashes --only-binary :all: -r /requirements/serving.txt \
 && ln -s /opt/vllm/bin/vllm /usr/local/bin/vllm
USER falqon
CMD ["falqon", "worker", "--queue", "cpu"]
