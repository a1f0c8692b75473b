# The whole pipeline, with PyTorch for the CPU. Build it from the root of the repository.
#   EXTRAS=tflite          also convert to TFLite
#   TORCH, PIP_OPTIONS     which PyTorch, and where pip finds it: on amd64 the usual index has only builds for GPUs,
#                          several gigabytes large; https://pytorch.org says where those for CPUs are
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS packages
ARG TORCH=torch==2.13.0
ARG EXTRAS=""
ARG PIP_OPTIONS=""
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /opt/pipeline
COPY pyproject.toml README.md /source/
COPY pipeline /source/pipeline
COPY device_agent /source/device_agent
COPY profiles /source/profiles
COPY examples /source/examples
RUN /opt/pipeline/bin/python -m pip install --no-cache-dir ${PIP_OPTIONS} "${TORCH}" "/source${EXTRAS:+[$EXTRAS]}"

FROM ${BASE}
ARG USER_ID=990
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --system --user-group --uid ${USER_ID} --create-home pipeline \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=packages /opt/pipeline /opt/pipeline
ENV PATH=/opt/pipeline/bin:/usr/local/bin:/usr/bin:/bin

USER pipeline
WORKDIR /home/pipeline
VOLUME /home/pipeline
# A command, no service: there is nothing to ask for its health.
HEALTHCHECK NONE
ENTRYPOINT ["pipeline"]
CMD ["--help"]
