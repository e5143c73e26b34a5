# hpo in a container, for docker-compose.yml and docs/deployment.md. A worker on CPUs needs no more than PyTorch's CPU
# build, which is small:
#   docker build --tag hpo .
# and one on NVIDIA GPUs takes the package index's own:
#   docker build --tag hpo-gpu --build-arg TORCH_INDEX=https://pypi.org/simple .
FROM python:3.11-slim AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/hpo
RUN /opt/hpo/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple \
    torch torchvision

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY hpo ./hpo
COPY models ./models
COPY studies ./studies
RUN /opt/hpo/bin/pip install --no-cache-dir '.[postgresql]'

FROM python:3.11-slim

COPY --from=build /opt/hpo /opt/hpo
RUN useradd --create-home --uid 1000 hpo && install --directory --owner hpo /data

USER hpo
WORKDIR /home/hpo
ENV PATH=/opt/hpo/bin:$PATH HPO_DATA=/data
VOLUME /data
ENTRYPOINT ["hpo"]
CMD ["worker"]
