# hpo in a container, for docker-compose.yml. A worker on CPUs needs no more than PyTorch's CPU build, which is small:
#   docker build --tag hpo .
# and one on NVIDIA GPUs takes the package index's own:
#   docker build --tag hpo --build-arg TORCH_INDEX=https://pypi.org/simple .
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple torch torchvision

WORKDIR /opt/hpo
COPY pyproject.toml README.md ./
COPY hpo ./hpo
COPY models ./models
COPY studies ./studies
RUN pip install --no-cache-dir '.[postgresql]' \
    && useradd --create-home hpo \
    && install --directory --owner hpo /data

USER hpo
WORKDIR /home/hpo
ENV HPO_DATA=/data
VOLUME /data
ENTRYPOINT ["hpo"]
CMD ["worker"]
