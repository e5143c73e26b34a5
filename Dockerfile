# hpo in a container, for docker-compose.yml and docs/deployment.md. A worker on CPUs needs no more than PyTorch's CPU
# build, which is small:
#   docker build --tag hpo:0.1.0 .
# and one on NVIDIA GPUs takes the package index's own:
#   docker build --tag hpo-gpu:0.1.0 --build-arg TORCH_INDEX=https://pypi.org/simple .
FROM python:3.11.13-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all:
RUN python -m venv /opt/hpo
WORKDIR /src
# Each step asks one index alone, so that no other can give a package of the same name.
COPY deploy/requirements.lock deploy/torch.lock ./
RUN /opt/hpo/bin/pip install --require-hashes --requirement requirements.lock
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/hpo/bin/pip install --index-url "${TORCH_INDEX}" --requirement torch.lock

COPY pyproject.toml README.md LICENSE ./
COPY hpo ./hpo
COPY models ./models
COPY studies ./studies
RUN /opt/hpo/bin/pip install --no-index --no-deps --no-build-isolation . && /opt/hpo/bin/pip check

FROM python:3.11.13-slim-bookworm

COPY --from=build /opt/hpo /opt/hpo
RUN useradd --create-home --uid 1000 hpo && install --directory --owner hpo /data

USER hpo
WORKDIR /home/hpo
ENV PATH=/opt/hpo/bin:$PATH HPO_DATA=/data NUMBA_CACHE_DIR=/tmp
VOLUME /data
ENTRYPOINT ["hpo"]
CMD ["worker"]
