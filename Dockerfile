# An image with xmodal for `cluster.yaml`, a RayJob or one machine: docker build --build-arg VARIANT=gpu -t xmodal .
# VARIANT is cpu or gpu (CUDA). The application runs from /home/ray/xmodal, which is on PYTHONPATH of every process.
ARG VARIANT=cpu
ARG RAY_VERSION=2.60.0
FROM rayproject/ray:${RAY_VERSION}-py311-${VARIANT}

WORKDIR /home/ray/xmodal
ENV PYTHONPATH=/home/ray/xmodal RAY_AUTH_MODE=token PIP_NO_CACHE_DIR=1

# Dependencies first: a change of the code does not install torch again.
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=ray:users xmodal/__init__.py xmodal/__init__.py
RUN pip install --constraint constraints.txt torch \
    && pip install --constraint constraints.txt ".[all]"

COPY --chown=ray:users xmodal xmodal
COPY --chown=ray:users pipelines pipelines
COPY --chown=ray:users jobs jobs

CMD ["python", "-m", "jobs.doctor"]
