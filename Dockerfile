# Two images from one file: `api` has no torch, `worker` has everything a training needs.
FROM node:22-slim AS assets
WORKDIR /srv
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY worker worker
COPY falqon_core falqon_core
COPY migrations migrations
# The editable install keeps `node_modules` beside the code, where the API looks for it.
RUN useradd --create-home --uid 10001 falqon \
 && mkdir -p -m 700 /var/lib/falqon && chown falqon /var/lib/falqon \
 && pip install --editable .
ENV FALQON_DATA_DIR=/var/lib/falqon
VOLUME /var/lib/falqon

FROM base AS api
COPY --from=assets /srv/node_modules node_modules
USER falqon
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["falqon", "api", "--host", "0.0.0.0", "--port", "8000", "--grace", "20"]

FROM base AS worker
RUN pip install --editable '.[worker]'
USER falqon
# A checkpoint is written before the process leaves; give it the time (docker stop --time, stop_grace_period).
STOPSIGNAL SIGTERM
CMD ["falqon", "worker", "--queue", "gpu"]
