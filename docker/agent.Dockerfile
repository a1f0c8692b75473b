# The device agent with ONNX Runtime, as a container: for boards that run containers, and for trying things out.
# BASE is free, so that the same file serves amd64 and arm64 and bases that were built locally.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m pip install --break-system-packages --no-cache-dir onnxruntime numpy \
    && useradd --create-home --uid 1000 agent
COPY device_agent /opt/device_agent/device_agent
ENV PYTHONPATH=/opt/device_agent PYTHONUNBUFFERED=1
USER agent
VOLUME /home/agent/state
ENTRYPOINT ["python3", "-m", "device_agent"]
CMD ["stdio", "--standalone", "--state", "/home/agent/state"]
